"""Configs of the stages that train: `pretrain`, `train_sft`, `train_preference_model`, `train_pat`.

Defaults are the paper's; `jobs/configs/<job>/{tiny,small,paper}.yaml` holds whole files.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from moss.config.base import Config, StageConfig
from moss.config.corpus import CorpusConfig
from moss.config.model import ModelConfig
from moss.config.optimization import OptimizerConfig as OptimizerConfig
from moss.config.optimization import ParallelConfig as ParallelConfig
from moss.config.optimization import TrainingConfig
from moss.config.quality import QualityConfig
from moss.config.unfreezing import UnfreezingConfig
from moss.types import QUALITY_LEVELS

NUM_RESPONSES = 6
"""Responses per prompt in the preference data (section 7.1)."""


class PretrainConfig(StageConfig):
    """`jobs.pretrain`: corpus mix to MOSS-base (paper sections 3 and 9)."""

    run_id: str = "MOSS-base"
    tokenizer: str = "tokenizer"
    """Run whose checkpoint is the tokenizer."""
    corpus: CorpusConfig
    """Mix and number of tokens of one epoch."""
    model: ModelConfig = ModelConfig()
    """Shape of the model."""
    base_checkpoint: str | None = None
    """Folder of a checkpoint of that shape to go on from (CodeGen-16B-mono in section 3); its
    embedding grows to the tokenizer's vocabulary. None starts from random weights."""
    unfreezing: UnfreezingConfig | None = None
    """Gradual unfreezing; None trains everything from the first step."""
    training: TrainingConfig

    @model_validator(mode="after")
    def window_fits_positions(self) -> Self:
        """The model has a position for every token of a window."""
        if self.training.max_length > self.model.max_positions:
            raise ValueError(
                f"training.max_length={self.training.max_length} exceeds model.max_positions="
                f"{self.model.max_positions}"
            )
        return self

    @model_validator(mode="after")
    def unfreezing_needs_whole_weights(self) -> Self:
        """Phases rebuild the optimizer from whole weights, which ZeRO-3 does not keep."""
        if self.unfreezing is not None and self.training.parallel.zero_stage == 3:
            raise ValueError("unfreezing with zero_stage=3 is not supported; use 0, 1 or 2")
        return self


class ConversationSource(Config):
    """Conversations of one synthesis run."""

    run: str
    """Run id in the workspace, or a path."""
    file: str = "data/conversations.parquet"
    weight: float = Field(1.0, gt=0)
    """Times each conversation is seen per epoch; 0.5 takes half of them, 2 takes all twice."""
    max_rows: int | None = Field(None, ge=1)
    """Cap before weighting; rows are chosen by a hash of their id, not by their order."""
    quality: int | None = None
    """PAT only: tag every conversation with this level instead of its preference score, for
    conversations with tool calls, which no preference data covers."""

    @model_validator(mode="after")
    def quality_is_a_level(self) -> Self:
        """A fixed tag is one of the six."""
        if self.quality is not None and self.quality not in QUALITY_LEVELS:
            raise ValueError(f"quality={self.quality} is not one of {QUALITY_LEVELS}")
        return self


class TrainSFTConfig(StageConfig):
    """`jobs.train_sft`: conversations to MOSS-Warmup or MOSS-SFT (paper sections 5.3, 6, 8.2)."""

    run_id: str = "MOSS-SFT"
    base: str = "MOSS-base"
    """Run whose checkpoint training starts from; MOSS-base for both (section 6)."""
    sources: tuple[ConversationSource, ...] = Field(min_length=1)
    loss_on: Literal["moss", "assistant_only"] = "assistant_only"
    """Tokens that carry loss; see `ChatRenderer`."""
    num_held_out: int = Field(200, ge=0)
    """Conversations kept out to measure the final loss; no prompt is on both sides."""
    training: TrainingConfig


class TrainPreferenceModelConfig(StageConfig):
    """`jobs.train_preference_model`: judged pairs to the preference model (paper section 7.1)."""

    run_id: str = "preference-model"
    base: str = "MOSS-SFT"
    """Run whose policy gives the body."""
    preferences: str = "preferences"
    """Run whose `data/pairs.parquet` holds the judged pairs."""
    training: TrainingConfig
    """`batch_size` counts pairs (48 in section 7.1)."""

    @model_validator(mode="after")
    def responses_of_a_prompt_fit_micro_batch(self) -> Self:
        """The six responses of a prompt are scored together."""
        needed = NUM_RESPONSES * self.training.max_length
        if self.training.micro_batch_tokens < needed:
            raise ValueError(
                f"micro_batch_tokens={self.training.micro_batch_tokens} is below {NUM_RESPONSES} "
                f"responses x max_length={self.training.max_length} = {needed}"
            )
        return self


class TrainPATConfig(StageConfig):
    """`jobs.train_pat`: preference-aware training of MOSS-PAT (paper section 7.2)."""

    run_id: str = "MOSS-PAT"
    base: str = "MOSS-SFT"
    preference_model: str = "preference-model"
    sources: tuple[ConversationSource, ...] = Field(min_length=1)
    """The SFT data, sampled again."""
    num_conversations: int = Field(100_000, ge=6)
    """Conversations sampled for scoring (100K in section 7.2); fewer when there are fewer."""
    quality: QualityConfig = QualityConfig()
    loss_on: Literal["moss", "assistant_only"] = "assistant_only"
    scorers: int = Field(1, ge=1)
    """Processes that score conversations."""
    training: TrainingConfig
