"""Pre-train MOSS-base on the corpus mix.

Usage: python -m jobs.pretrain --config tiny [--set training.optimizer.learning_rate=3e-3]
Writes `checkpoint/` (Transformers model and tokenizer) and `metrics.jsonl`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jobs.entry import run_job
from moss.config.training import PretrainConfig

if TYPE_CHECKING:
    from moss.lineage import Run

CONFIG_CLASS = PretrainConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry."""
    return run_job("pretrain", CONFIG_CLASS, run_stage, argv)


def run_stage(config: PretrainConfig) -> None:
    """Open the run on its tokenizer."""
    from moss.lineage import Run

    tokenizer_run = config.run_path(config.tokenizer)
    with Run.open(config, "pretrain", inputs={"tokenizer": tokenizer_run}) as run:
        if not run.finished:
            _train(config, run, tokenizer_run)


def _train(config: PretrainConfig, run: Run, tokenizer_run: str) -> None:
    """Draw the token stream, train on it, finish the run."""
    from actors.train_worker import connect_for, discard_states, train
    from moss.lineage import shared_folder
    from moss.packing import TokenWindows
    from moss.pretraining_data import write_stream
    from moss.training_tasks import LanguageModelTask

    folder = shared_folder(run.folder)
    tokenizer = shared_folder(f"{tokenizer_run}/checkpoint")
    with connect_for(config.training, stage="pretrain"):
        stream_file, by_source = write_stream(config.corpus, tokenizer, folder, seed=config.seed)
        num_windows = len(TokenWindows.load(stream_file, window=config.training.max_length).lengths)
        task = LanguageModelTask(
            training=config.training,
            tokenizer_folder=tokenizer,
            train_file=stream_file,
            checkpoint_folder=f"{folder}/checkpoint",
            base_folder=config.base_checkpoint,
            model=config.model,
            seed=config.seed,
            unfreezing=config.unfreezing,
        )
        num_steps = config.training.num_steps(num_windows)
        metrics = train(task, stage="pretrain", run_folder=folder, num_steps=num_steps)
    used = min(num_windows, num_steps * config.training.batch_size)
    run.finish(
        outputs=["checkpoint"],
        counts={"window": {"ok": used, "skipped": num_windows - used}},
        metrics=metrics | {f"corpus/{k}_tokens": float(v) for k, v in by_source.items()},
        model_name=config.run_id,
    )
    discard_states(folder)


if __name__ == "__main__":
    raise SystemExit(main())
