"""Normalized rewards against the plain definition over all scores."""

from __future__ import annotations

import json
import statistics

import numpy as np
import pytest

from moss.errors import DataError
from moss.reward_normalization import RewardNormalizer
from moss.rollouts import Floats

BATCHES = [
    np.random.default_rng(seed).normal(3 + seed, 2, 5 + seed).astype(np.float32)
    for seed in range(6)
]


def as_list(scores_B: Floats) -> list[float]:
    return [float(score) for score in scores_B]


def test_running_moments_are_those_of_all_scores_so_far() -> None:
    normalizer = RewardNormalizer("running", fixed_scale=7.0)
    seen: list[float] = []
    for scores_B in BATCHES:
        seen += as_list(scores_B)
        mean, spread = normalizer.moments(scores_B)
        assert mean == pytest.approx(statistics.fmean(seen), rel=1e-12)
        assert spread == pytest.approx(statistics.pstdev(seen), rel=1e-12)


def test_batch_moments_are_those_of_the_batch_and_none_is_the_fixed_scale() -> None:
    for scores_B in BATCHES:
        mean, spread = RewardNormalizer("batch", fixed_scale=7.0).moments(scores_B)
        assert mean == pytest.approx(statistics.fmean(as_list(scores_B)), rel=1e-12)
        assert spread == pytest.approx(statistics.pstdev(as_list(scores_B)), rel=1e-12)
        assert RewardNormalizer("none", fixed_scale=7.0).moments(scores_B) == (0.0, 7.0)


def test_a_state_through_json_goes_on_bit_for_bit() -> None:
    whole, first = (RewardNormalizer("running", fixed_scale=1.0) for _ in range(2))
    for scores_B in BATCHES[:3]:
        whole.moments(scores_B)
        first.moments(scores_B)
    resumed = RewardNormalizer("running", fixed_scale=1.0)
    resumed.load(json.loads(json.dumps(first.state())))
    for scores_B in BATCHES[3:]:
        assert resumed.moments(scores_B) == whole.moments(scores_B)
    with pytest.raises(DataError, match="no state of a reward normalizer"):
        resumed.load({"count": 3})


@pytest.mark.parametrize("kind", ["running", "batch"])
def test_equal_scores_are_not_blown_up(kind: str) -> None:
    normalizer = RewardNormalizer("running" if kind == "running" else "batch", fixed_scale=1.0)
    scores_B = np.full(4, 0.1, np.float32)
    mean, spread = normalizer.moments(scores_B)
    assert np.allclose((scores_B - mean) / spread, 0.0)
    assert spread == 1.0
