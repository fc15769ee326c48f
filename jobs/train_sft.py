"""Fine-tune on conversations: MOSS-Warmup or MOSS-SFT.

Usage: python -m jobs.train_sft --config tiny [--run-id MOSS-Warmup]
Writes `checkpoint/` (Transformers model and tokenizer) and `metrics.jsonl`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jobs.entry import run_job
from moss.config.training import TrainSFTConfig

if TYPE_CHECKING:
    from moss.lineage import Run

CONFIG_CLASS = TrainSFTConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry."""
    return run_job("train_sft", CONFIG_CLASS, run_stage, argv)


def run_stage(config: TrainSFTConfig) -> None:
    """Open the run on its base and conversations."""
    from moss.lineage import Run

    inputs = {"base": config.run_path(config.base)}
    inputs |= {source.run: config.run_path(source.run) for source in config.sources}
    with Run.open(config, "train_sft", inputs=inputs) as run:
        if not run.finished:
            _train(config, run, inputs)


def _train(config: TrainSFTConfig, run: Run, inputs: dict[str, str]) -> None:
    """Choose conversations, tokenize them, train, finish the run."""
    from actors.train_worker import connect_for, discard_states
    from jobs.language_training import train_on_examples
    from moss.chat_rendering import ChatRenderer
    from moss.lineage import shared_folder
    from moss.sft_data import select_examples, split_held_out
    from moss.tokenizer import MossTokenizer

    folder = shared_folder(run.folder)
    base = shared_folder(f"{inputs['base']}/checkpoint")
    with connect_for(config.training, stage="train_sft"):
        renderer = ChatRenderer(MossTokenizer.load(base), config.loss_on)
        folders = [inputs[source.run] for source in config.sources]
        selection = select_examples(config.sources, folders, seed=config.seed)
        examples, held_out = split_held_out(
            selection.examples, config.num_held_out, seed=config.seed
        )
        metrics, counts = train_on_examples(
            config.training,
            {"train": examples, "held_out": held_out},
            renderer,
            stage="train_sft",
            run_folder=folder,
            base_folder=base,
            seed=config.seed,
        )
    run.finish(
        outputs=["checkpoint"],
        counts=selection.counts | counts,
        metrics=metrics,
        model_name=config.run_id,
    )
    discard_states(folder)


if __name__ == "__main__":
    raise SystemExit(main())
