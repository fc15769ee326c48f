"""Distributions, shares and choices behind the reports."""

from __future__ import annotations

import math
import statistics
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moss.config.synthesis import TurnsConfig
from moss.dedup import count_words
from moss.recipes import Row
from moss.reporting.distributions import FREQUENCY_EDGES, Distribution, length_histogram
from moss.reporting.row_choice import Group, choose_rows, fair_shares
from moss.turns import sample_turns, turn_shares


def distribution(values: list[int]) -> Distribution:
    made = Distribution()
    for value in values:
        made.add(value)
    return made


@given(st.lists(st.integers(0, 5000), min_size=1))
def test_figures_agree_with_those_of_the_whole_list(values: list[int]) -> None:
    made = distribution(values)
    assert math.isclose(made.mean, statistics.fmean(values), abs_tol=1e-9)
    assert made.quantile(0.5) == statistics.median_low(values)
    assert made.quantile(1.0) == max(values)
    (series,) = length_histogram("t", "u", {"en": made}).series
    assert sum(series.counts) == len(values)


def test_bins_say_which_values_they_hold_and_frequencies_begin_at_one() -> None:
    lengths = length_histogram("t", "u", {"en": distribution([0, 3, 4, 20, 5000])})
    assert lengths.bins[:4] == ("0–3", "4–7", "8–15", "16–31")
    assert lengths.bins[-1] == "2048+"
    assert [s.counts for s in lengths.series] == [(2, 1, 0, 1, 0, 0, 0, 0, 0, 0, 1)]
    often = distribution([1, 1, 1, 2, 5])
    chart = length_histogram("t", "u", {"seed": often}, edges=FREQUENCY_EDGES)
    assert chart.bins == ("1", "2", "3", "4–7")
    assert chart.series[0].counts == (3, 1, 0, 1)
    once = length_histogram("t", "u", {"seed": distribution([1])}, edges=FREQUENCY_EDGES)
    assert (once.bins, once.series[0].counts) == (("1", "2", "3"), (1, 0, 0))


@pytest.mark.parametrize(
    "config",
    [
        TurnsConfig(),
        TurnsConfig(mu=1.3, sigma=0.6, max_turns=2),
        TurnsConfig(params="log", overflow="redraw"),
        TurnsConfig(params="log"),
    ],
)
def test_expected_turns_are_what_the_sampler_draws(config: TurnsConfig) -> None:
    shares = turn_shares(config)
    assert math.fsum(shares.values()) == pytest.approx(1.0)
    drawn = Counter(sample_turns(config, seed=1, row_id=str(n)).turns for n in range(4000))
    for turns, share in shares.items():
        assert drawn[turns] / 4000 == pytest.approx(share, abs=0.03)


def test_words_count_chinese_characters_one_by_one() -> None:
    assert count_words("Paris 是法国的首都, 2 times.") == 9
    assert count_words("") == 0


@given(st.lists(st.integers(1, 60), min_size=1, max_size=8), st.integers(1, 120))
def test_small_groups_are_shown_whole_before_large_ones(sizes: list[int], limit: int) -> None:
    groups: dict[Group, int] = {("prompts", str(n), "ok"): size for n, size in enumerate(sizes)}
    shares = fair_shares(groups, limit)
    assert sum(shares.values()) == min(limit, sum(sizes))
    cut = [shares[group] for group in groups if shares[group] < groups[group]]
    whole = [shares[group] for group in groups if shares[group] == groups[group]]
    if cut and whole:
        assert max(whole) <= max(cut) + 1
    assert max(cut, default=0) - min(cut, default=0) <= 1


def test_a_sample_shows_each_kind_of_outcome_and_is_the_same_every_time() -> None:
    rows: list[Row] = [
        {"id": f"r{n}", "step": "s", "status": "failed" if n % 50 == 0 else "ok"}
        for n in range(500)
    ]
    choice = choose_rows(["prompts"], lambda _: iter(rows), limit=40)
    assert choice == choose_rows(["prompts"], lambda _: iter(rows[::-1]), limit=40)
    assert (choice.num_chosen, choice.num_rows) == (40, 500)
    failed = {row["id"] for row in rows if row["status"] == "failed"}
    assert failed <= choice.ids["prompts"]
