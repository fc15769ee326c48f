"""Samples show what was sampled, and a resumed run has each of them once."""

import json
from pathlib import Path

import numpy as np

from moss.experience import ScoredRollouts
from moss.rollouts import Rollout, RolloutBatch
from moss.samples import Sample, SampleLog, pick_samples, samples_markdown


def scored() -> ScoredRollouts:
    rollouts = RolloutBatch.from_rollouts(
        [
            Rollout([1, 2], [3, 4, 5], [-1.0, -1.0, -1.0], 0, "stop"),
            Rollout([6], [7], [-2.0], 0, "length"),
            Rollout([8], [9, 9], [-1.0, -1.0], 0, "stop"),
        ],
        pad_id=0,
    )
    garbage = np.where(rollouts.mask_BT, 0.0, 99.0).astype(np.float32)
    return ScoredRollouts(
        rollouts=rollouts,
        prompts_B=np.arange(3),
        scores_B=np.array([0.5, -1.0, 2.0], np.float32),
        logprobs_BT=garbage + np.where(rollouts.mask_BT, -0.5, 0).astype(np.float32),
        reference_logprobs_BT=np.where(rollouts.mask_BT, -1.5, 0).astype(np.float32),
        values_BT=None,
    )


def spell(ids: list[int]) -> str:
    return " ".join(map(str, ids))


def test_a_sample_is_the_text_score_and_kl_of_its_rollout() -> None:
    first, second = pick_samples(scored(), spell, num_samples=2)
    assert first == Sample("1 2", "3 4 5", 0.5, 3.0, 3, True)
    assert second == Sample("6", "7", -1.0, 1.0, 1, False)
    assert len(pick_samples(scored(), spell, num_samples=9)) == 3


def test_the_table_shows_every_cell_and_no_text_breaks_it() -> None:
    table = samples_markdown([Sample("a|b", "<b>x\ny", 1.0, 0.25, 4, False)])
    lines = table.splitlines()
    assert len(lines) == 3
    assert lines[2] == "| 1.00 | 0.25 | 4 (cut) | a&#124;b | &lt;b>x<br>y |"


def test_a_resumed_run_drops_what_it_makes_again(tmp_path: Path) -> None:
    samples = pick_samples(scored(), spell, num_samples=2)
    with SampleLog(str(tmp_path), resume_step=0) as log:
        for iteration in (1, 10, 20):
            log.write(iteration, samples)
    path = tmp_path / "samples.jsonl"
    with path.open("a") as file:
        file.write('{"iteration": 30, "prom')
    with SampleLog(str(tmp_path), resume_step=10) as log:
        log.write(20, samples)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [1, 1, 10, 10, 20, 20]
    assert rows[0] == {
        "iteration": 1, "prompt": "1 2", "response": "3 4 5", "score": 0.5, "kl_nats": 3.0,
        "length_tokens": 3, "finished": True,
    }  # fmt: skip
