"""A language model trained on conversations, as SFT, PAT and rejection sampling do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moss.chat_rendering import ChatRenderer
    from moss.config.optimization import TrainingConfig
    from moss.sft_data import Example


def train_on_examples(
    training: TrainingConfig,
    parts: Mapping[str, Sequence[Example]],
    renderer: ChatRenderer,
    *,
    stage: str,
    run_folder: str,
    base_folder: str,
    seed: int,
) -> tuple[dict[str, float], dict[str, dict[str, int]]]:
    """Tokenize examples and train the model of `base_folder` on them, into `<run>/checkpoint/`.

    Args:
        parts: `train` and, for a loss that is only measured, `held_out`.
    Returns: final metrics, and the counts of tokenizing by step.
    Raises: see `actors.train_worker.train`.
    """
    from actors.train_worker import train
    from moss.sft_data import write_sequences
    from moss.training_tasks import LanguageModelTask

    files, counts, num_sequences = write_sequences(
        parts, renderer, run_folder, max_length=training.max_length
    )
    task = LanguageModelTask(
        training=training,
        tokenizer_folder=base_folder,
        train_file=files["train"],
        held_out_file=files.get("held_out"),
        checkpoint_folder=f"{run_folder}/checkpoint",
        base_folder=base_folder,
        model=None,
        seed=seed,
    )
    num_steps = training.num_steps(num_sequences["train"])
    metrics = train(task, stage=stage, run_folder=run_folder, num_steps=num_steps)
    return metrics, counts
