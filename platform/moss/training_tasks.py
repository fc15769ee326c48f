"""The two training tasks: language modelling (pre-training, SFT, PAT) and preference.

A task is small and picklable: it names the files a stage's controller wrote, and each worker reads
them. Paths are local folders that every worker sees.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from torch import nn

from moss.config.model import ModelConfig
from moss.config.optimization import TrainingConfig
from moss.config.unfreezing import UnfreezingConfig
from moss.metrics import VALIDATION_ACCURACY, VALIDATION_LOSS
from moss.models import (
    PreferenceModel,
    build_policy_for,
    grow_vocabulary,
    load_policy,
    save_model,
    save_preference_model,
)
from moss.objectives import ComparedResponses, LanguageModelObjective, PreferenceObjective
from moss.packing import SequenceSource, TokenSequences, TokenWindows
from moss.preference_accuracy import JudgedPrompt, load_judged, measure_accuracy
from moss.scoring import held_out_loss
from moss.tokenizer import MossTokenizer


@dataclass(frozen=True)
class LanguageModelTask:
    """Train a policy on token sequences (`.npz`) or on windows of a token stream (`.npy`)."""

    training: TrainingConfig
    tokenizer_folder: str
    train_file: str
    checkpoint_folder: str
    """Where the trained policy goes, with a copy of the tokenizer."""
    base_folder: str | None
    """Checkpoint to start from; None builds `model` with random weights."""
    model: ModelConfig | None
    seed: int
    held_out_file: str | None = None
    """Sequences whose mean loss is reported at the end."""
    unfreezing: UnfreezingConfig | None = None

    def build_model(self) -> nn.Module:
        """The base checkpoint, or a random model of the configured shape."""
        tokenizer = MossTokenizer.load(self.tokenizer_folder)
        if self.base_folder is not None:
            base = load_policy(self.base_folder)
            grow_vocabulary(base, tokenizer.padded_vocab_size, seed=self.seed)
            return cast("nn.Module", base)
        assert self.model is not None, "a task names a base or a shape"
        policy = build_policy_for(tokenizer, self.model, seed=self.seed)
        return cast("nn.Module", policy)

    def build_objective(self) -> LanguageModelObjective:
        """Masked next-token loss over the training file."""
        pad_id = MossTokenizer.load(self.tokenizer_folder).pad_id
        source = _source(self.train_file, self.training.max_length)
        return LanguageModelObjective(source, self.training, pad_id=pad_id, seed=self.seed)

    def export(self, model: nn.Module) -> dict[str, float]:
        """Write the checkpoint; returns the held-out loss in nats."""
        save_model(self.checkpoint_folder, model, tokenizer_folder=self.tokenizer_folder)
        if self.held_out_file is None:
            return {}
        loss = held_out_loss(
            model,
            _source(self.held_out_file, self.training.max_length),
            token_budget=self.training.micro_batch_tokens,
        )
        return {VALIDATION_LOSS: loss}


@dataclass(frozen=True)
class PreferenceTask:
    """Train a preference model on judged responses (`JudgedPrompt` JSON lines)."""

    training: TrainingConfig
    tokenizer_folder: str
    train_file: str
    validation_file: str
    checkpoint_folder: str
    base_folder: str
    """Policy whose body the model starts from (MOSS-SFT)."""
    accuracy_file: str
    """Where accuracy per model pair goes, JSON."""
    seed: int
    unfreezing: UnfreezingConfig | None = None

    def build_model(self) -> nn.Module:
        """The policy's body with a fresh value head."""
        return PreferenceModel.from_policy(self.base_folder, seed=self.seed)

    def build_objective(self) -> PreferenceObjective:
        """Pairwise loss over the training prompts."""
        prompts = [
            ComparedResponses(prompt.sequences, prompt.pairs)
            for prompt in load_judged(self.train_file)
        ]
        pad_id = MossTokenizer.load(self.tokenizer_folder).pad_id
        return PreferenceObjective(prompts, self.training, pad_id=pad_id, seed=self.seed)

    def export(self, model: nn.Module) -> dict[str, float]:
        """Measure on validation prompts, write the checkpoint with score statistics."""
        assert isinstance(model, PreferenceModel)
        validation: list[JudgedPrompt] = load_judged(self.validation_file)
        report = measure_accuracy(model, validation, token_budget=self.training.micro_batch_tokens)
        model.score_mean, model.score_std = report.score_mean, report.score_std
        save_preference_model(self.checkpoint_folder, model, tokenizer_folder=self.tokenizer_folder)
        Path(self.accuracy_file).write_text(json.dumps(report.to_json(), indent=1) + "\n")
        return {
            VALIDATION_ACCURACY: report.accuracy,
            "validation/pairs_count": float(report.num_pairs),
            "validation/mean_score": report.score_mean,
            "validation/spread_score": report.score_std,
        }


def _source(file: str, max_length: int) -> SequenceSource:
    if file.endswith(".npy"):
        return TokenWindows.load(file, window=max_length)
    return TokenSequences.load(file)
