"""Rejection sampling: MOSS-SFT answers PPO's prompts several times and learns its best answers.

Usage: python -m jobs.train_rejection_sampling --config tiny
Writes `checkpoint/`, `data/chosen.parquet` (the kept responses with their scores) and
`metrics.jsonl`. `jobs.compare` takes the run as `rejection_sampling`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jobs.entry import run_job
from moss.config.rejection import TrainRejectionSamplingConfig

if TYPE_CHECKING:
    from moss.lineage import Run

CONFIG_CLASS = TrainRejectionSamplingConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry."""
    return run_job("train_rejection_sampling", CONFIG_CLASS, run_stage, argv)


def run_stage(config: TrainRejectionSamplingConfig) -> None:
    """Open the run on its base, preference model and prompts."""
    from moss.lineage import Run

    inputs = {
        "base": config.run_path(config.base),
        "preference_model": config.run_path(config.preference_model),
        "prompts": config.run_path(config.prompts),
    }
    with Run.open(config, "train_rejection_sampling", inputs=inputs) as run:
        if not run.finished:
            _train(config, run, inputs)


def _train(config: TrainRejectionSamplingConfig, run: Run, inputs: dict[str, str]) -> None:
    """Sample, choose, train, finish the run."""
    from actors.train_worker import connect_for, discard_states
    from jobs.language_training import train_on_examples
    from jobs.rejection_samples import choose_responses
    from moss import storage
    from moss.lineage import shared_folder
    from moss.metrics import TRAIN_TOKENS

    folder = shared_folder(run.folder)
    base = shared_folder(f"{inputs['base']}/checkpoint")
    chosen = choose_responses(config, run.folder, inputs)
    storage.write_rows(run.path("data/chosen.parquet"), chosen.rows)
    with connect_for(config.training, stage="train_rejection_sampling"):
        metrics, counts = train_on_examples(
            config.training,
            {"train": chosen.examples},
            chosen.renderer,
            stage="train_rejection_sampling",
            run_folder=folder,
            base_folder=base,
            seed=config.seed,
        )
    # What was sampled is part of the cost, as it is of PPO's.
    metrics[TRAIN_TOKENS] = metrics.get(TRAIN_TOKENS, 0.0) + chosen.num_sampled_tokens
    run.finish(
        outputs=["checkpoint", "data"],
        counts={"prompts": chosen.counts} | counts,
        metrics=metrics,
        model_name=config.run_id,
    )
    discard_states(folder)


if __name__ == "__main__":
    raise SystemExit(main())
