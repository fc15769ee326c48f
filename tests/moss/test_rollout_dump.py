"""Dumped rollouts come back as they were, and what is missing or torn is said."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from moss import storage
from moss.errors import DataError
from moss.experience import ScoredRollouts
from moss.rollout_dump import DumpRecord, RolloutDump, dumped_iterations, read_dump, write_dump
from moss.rollouts import Rollout, RolloutBatch


def dump_of(iteration: int, *, critic: bool) -> RolloutDump:
    rollouts = [
        Rollout([5, 6, 7][: row + 1], [8, 9], [-0.5, -1.0 / (row + 3)], 3, "stop")
        for row in range(3)
    ]
    batch = RolloutBatch.from_rollouts(rollouts, pad_id=0)
    drawn = np.random.default_rng(iteration)
    shape = batch.tokens_BT.shape
    scored = ScoredRollouts(
        rollouts=batch,
        prompts_B=np.arange(3),
        scores_B=drawn.normal(size=3).astype(np.float32),
        logprobs_BT=drawn.normal(size=shape).astype(np.float32),
        reference_logprobs_BT=drawn.normal(size=shape).astype(np.float32),
        values_BT=drawn.normal(size=shape).astype(np.float32) if critic else None,
    )
    record = DumpRecord(
        iteration=iteration,
        kl_coefficient=0.1 / 3,
        score_mean=0.2 / 3,
        score_scale=1.5,
        figures={"rollout/score": 0.1},
        dropped=({"row": "3", "reason": "nan"},),
    )
    return RolloutDump(record, scored)


@pytest.mark.parametrize("critic", [True, False])
def test_a_dump_comes_back_bit_for_bit(tmp_path: Path, critic: bool) -> None:
    dump = dump_of(4, critic=critic)
    write_dump(str(tmp_path), dump)
    read = read_dump(str(tmp_path), 4)
    assert read.record == dump.record
    for theirs, ours in ((dump.scored, read.scored), (dump.scored.rollouts, read.scored.rollouts)):
        for field in fields(theirs):
            if field.name == "rollouts":
                continue
            before, after = getattr(theirs, field.name), getattr(ours, field.name)
            if before is None:
                assert after is None
                continue
            assert before.dtype == after.dtype
            np.testing.assert_array_equal(before, after)


def test_a_missing_dump_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"dumped iterations: none.*dump_rollouts_every"):
        read_dump(str(tmp_path), 1)
    for iteration in (10, 2):
        write_dump(str(tmp_path), dump_of(iteration, critic=True))
    assert dumped_iterations(str(tmp_path)) == [2, 10]
    with pytest.raises(DataError, match=r"no dump of iteration 3; dumped iterations: 2, 10"):
        read_dump(str(tmp_path), 3)


def test_a_torn_dump_is_refused(tmp_path: Path) -> None:
    write_dump(str(tmp_path), dump_of(1, critic=True))
    path = str(tmp_path / "rollouts" / "iteration-000001.npz")
    storage.write_bytes(path, storage.read_bytes(path)[:-50])
    with pytest.raises(DataError, match=r"iteration-000001\.json is not whole"):
        read_dump(str(tmp_path), 1)
