"""Configuration of `python -m jobs.plan`: a PPO run, and its model's shape where no run says it."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator

from moss.config.model import ModelConfig
from moss.config.ppo import TrainPPOConfig


class PlanConfig(TrainPPOConfig):
    """Who sits where, memory per device and batch arithmetic of a PPO run; starts nothing."""

    reads_any_storage: ClassVar[bool] = True

    model: ModelConfig | None = None
    """Shape of policy and preference model. None: that of their checkpoints or, where these do not
    exist yet, of the road's `pretrain` stage."""
    vocab_size: int | None = Field(None, gt=0)
    """Rows of the embedding, with `model`. None: the checkpoint's, or the most that the road's
    `train_tokenizer` stage can give."""

    @model_validator(mode="after")
    def a_shape_is_whole(self) -> Self:
        """A shape without a vocabulary counts no parameters."""
        if self.model is not None and self.vocab_size is None:
            raise ValueError("model is set but vocab_size is not; set both, or neither")
        return self
