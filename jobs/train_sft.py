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
    from actors.train_worker import connect_for, discard_states, train
    from moss.chat_rendering import ChatRenderer
    from moss.lineage import shared_folder
    from moss.sft_data import select_examples, split_held_out, write_sequences
    from moss.tokenizer import MossTokenizer
    from moss.training_tasks import LanguageModelTask

    folder = shared_folder(run.folder)
    base = shared_folder(f"{inputs['base']}/checkpoint")
    with connect_for(config.training, stage="train_sft"):
        renderer = ChatRenderer(MossTokenizer.load(base), config.loss_on)
        folders = [inputs[source.run] for source in config.sources]
        selection = select_examples(config.sources, folders, seed=config.seed)
        examples, held_out = split_held_out(
            selection.examples, config.num_held_out, seed=config.seed
        )
        length = config.training.max_length
        files, counts, num_sequences = write_sequences(
            {"train": examples, "held_out": held_out}, renderer, folder, max_length=length
        )
        task = LanguageModelTask(
            training=config.training,
            tokenizer_folder=base,
            train_file=files["train"],
            held_out_file=files.get("held_out"),
            checkpoint_folder=f"{folder}/checkpoint",
            base_folder=base,
            model=None,
            seed=config.seed,
        )
        num_steps = config.training.num_steps(num_sequences["train"])
        metrics = train(task, stage="train_sft", run_folder=folder, num_steps=num_steps)
    run.finish(
        outputs=["checkpoint"],
        counts=selection.counts | counts,
        metrics=metrics,
        model_name=config.run_id,
    )
    discard_states(folder)


if __name__ == "__main__":
    raise SystemExit(main())
