"""Responses of older weights than a run allows are refused; uncorrected ones are told of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from moss.config.ppo import PPOConfig, RolloutConfig, TrainPPOConfig
from moss.errors import WeightSyncError
from moss.rollouts import Rollout, RolloutBatch
from moss.staleness import check_staleness, staleness_of, uncorrected_staleness


def batch_of(*versions: int) -> RolloutBatch:
    return RolloutBatch.from_rollouts(
        [Rollout([5, 6], [7, 8 + v], [-0.5, -1.5], v, "stop") for v in versions], pad_id=0
    )


def test_the_oldest_response_counts() -> None:
    assert staleness_of(batch_of(3, 2, 3), policy_version=3) == 1
    assert staleness_of(batch_of(3), policy_version=3) == 0


@pytest.mark.parametrize(("versions", "most"), [((4,), 0), ((3,), 1), ((3, 4), 1), ((0,), 4)])
def test_responses_within_the_bound_pass(versions: tuple[int, ...], most: int) -> None:
    check_staleness(batch_of(*versions), policy_version=4, most=most)


@pytest.mark.parametrize(("versions", "most"), [((3,), 0), ((2,), 1), ((4, 2), 1), ((5,), 1)])
def test_responses_of_older_or_later_weights_are_refused(
    versions: tuple[int, ...], most: int
) -> None:
    named = ", ".join(map(str, sorted(versions)))
    with pytest.raises(
        WeightSyncError, match=f"version 4 .* of versions {named}; expected {4 - most} to 4"
    ):
        check_staleness(batch_of(*versions), policy_version=4, most=most)


def test_stale_responses_without_correction_are_told() -> None:
    def told(ahead: bool, cap: float | None) -> str | None:
        return uncorrected_staleness(
            TrainPPOConfig(
                rollout=RolloutConfig(one_step_off=ahead), ppo=PPOConfig(importance_cap=cap)
            )
        )

    assert "set ppo.importance_cap" in (told(True, None) or "")
    assert [told(True, 2.0), told(False, None)] == [None, None]


def test_a_batch_survives_its_file(tmp_path: Path) -> None:
    batch = batch_of(1, 2)
    batch.save(tmp_path / "batch.npz")
    again = RolloutBatch.load(tmp_path / "batch.npz")
    for name in RolloutBatch.__slots__:
        ours, theirs = getattr(again, name), getattr(batch, name)
        assert ours.dtype == theirs.dtype
        assert np.array_equal(ours, theirs)
