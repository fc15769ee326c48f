"""Statistics against scipy and plain counting."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from moss.errors import DataError
from moss.evaluation.statistics import (
    average_ranks,
    bootstrap_interval,
    mcnemar_exact,
    spearman,
    wilson_interval,
    win_rate,
)


@given(n=st.integers(1, 400), share=st.floats(0, 1))
def test_wilson_interval_equals_scipys(n: int, share: float) -> None:
    successes = round(share * n)
    ours = wilson_interval(successes, n)
    theirs = stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    assert ours.low <= ours.value <= ours.high


def test_wilson_interval_refuses_an_empty_sample() -> None:
    with pytest.raises(DataError, match="0 of 0"):
        wilson_interval(0, 0)


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=2, max_size=30))
def test_spearman_equals_scipys_with_ties(points: list[tuple[int, int]]) -> None:
    x, y = [float(p[0]) for p in points], [float(p[1]) for p in points]
    ours = spearman(x, y)
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert ours == 0.0
    else:
        assert ours == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-9)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=20))
def test_average_ranks_equal_scipys(values: list[int]) -> None:
    numbers = [float(value) for value in values]
    assert average_ranks(numbers) == pytest.approx(list(stats.rankdata(numbers)))


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_equals_the_exact_binomial_test(first: int, second: int) -> None:
    if first + second == 0:
        assert mcnemar_exact(first, second) == 1.0
    else:
        expected = stats.binomtest(min(first, second), first + second, 0.5).pvalue
        assert mcnemar_exact(first, second) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_agrees_with_counting_every_coin_outcome() -> None:
    outcomes = [sum(flips) for flips in itertools.product((0, 1), repeat=6)]
    share = sum(1 for heads in outcomes if heads <= 1 or heads >= 5) / len(outcomes)
    assert mcnemar_exact(1, 5) == pytest.approx(share)


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_bootstrap_covers_the_normal_interval_of_the_mean(seed: int) -> None:
    samples = np.random.default_rng(seed).normal(size=200)
    ours = bootstrap_interval(list(samples), seed=seed)
    half = 1.96 * samples.std(ddof=1) / math.sqrt(200)
    assert ours.low == pytest.approx(samples.mean() - half, abs=half / 2)
    assert ours.high == pytest.approx(samples.mean() + half, abs=half / 2)


def test_bootstrap_is_deterministic_and_refuses_nan() -> None:
    assert bootstrap_interval([1.0, 2.0, 5.0]) == bootstrap_interval([1.0, 2.0, 5.0])
    with pytest.raises(DataError, match="finite"):
        bootstrap_interval([1.0, math.nan])


def test_ties_do_not_move_the_decided_win_rate() -> None:
    few, many = win_rate(40, 0, 20), win_rate(40, 500, 20)
    assert few.decided == many.decided
    assert few.beats
    assert many.n == 560


def test_all_ties_beat_nobody() -> None:
    result = win_rate(0, 30, 0, num_invalid=2)
    assert result.decided is None
    assert not result.beats
