"""Train the preference model on judged pairs.

Usage: python -m jobs.train_preference_model --config tiny
Writes `checkpoint/` (body, value head, score statistics) and
`report.json` (accuracy per model pair).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jobs.entry import run_job
from moss.config.training import TrainPreferenceModelConfig

if TYPE_CHECKING:
    from moss.lineage import Run

CONFIG_CLASS = TrainPreferenceModelConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry."""
    return run_job("train_preference_model", CONFIG_CLASS, run_stage, argv)


def run_stage(config: TrainPreferenceModelConfig) -> None:
    """Open the run on its base and judged pairs."""
    from moss.lineage import Run

    inputs = {
        "base": config.run_path(config.base),
        "preferences": config.run_path(config.preferences),
    }
    with Run.open(config, "train_preference_model", inputs=inputs) as run:
        if not run.finished:
            _train(config, run, inputs)


def _train(config: TrainPreferenceModelConfig, run: Run, inputs: dict[str, str]) -> None:
    """Group judged pairs by prompt, train, measure, finish the run."""
    from actors.train_worker import connect_for, discard_states, train
    from moss.chat_rendering import ChatRenderer
    from moss.lineage import shared_folder
    from moss.outputs import read_named_rows
    from moss.preference_data import write_judged
    from moss.tokenizer import MossTokenizer
    from moss.training_tasks import PreferenceTask

    folder = shared_folder(run.folder)
    base = shared_folder(f"{inputs['base']}/checkpoint")
    with connect_for(config.training, stage="train_preference_model"):
        rows = read_named_rows(inputs["preferences"], "data/pairs.parquet")
        judged = write_judged(
            rows,
            ChatRenderer(MossTokenizer.load(base)),
            folder,
            max_length=config.training.max_length,
        )
        task = PreferenceTask(
            training=config.training,
            tokenizer_folder=base,
            train_file=judged.train_file,
            validation_file=judged.validation_file,
            checkpoint_folder=f"{folder}/checkpoint",
            base_folder=base,
            accuracy_file=f"{folder}/report.json",
            seed=config.seed,
        )
        num_steps = config.training.num_steps(judged.num_train_pairs)
        metrics = train(
            task, stage="train_preference_model", run_folder=folder, num_steps=num_steps
        )
    run.finish(
        outputs=["checkpoint", "report.json"],
        counts=judged.counts,
        metrics=metrics,
        model_name=config.run_id,
    )
    discard_states(folder)


if __name__ == "__main__":
    raise SystemExit(main())
