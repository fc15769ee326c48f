"""Gradual parameter unfreezing as configuration."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from moss.config.base import Config


class UnfreezingPhase(Config):
    """A stretch of training in which only some parameters move."""

    trainable: Literal["new_rows", "embeddings_and_edges", "all"]
    """`new_rows`: rows of embedding and head added to the base vocabulary; `embeddings_and_edges`:
    embedding, head, and the first and last `num_edge_layers` blocks; `all`."""
    share: float = Field(gt=0, le=1)
    """Share of all optimizer steps."""


class UnfreezingConfig(Config):
    """Phases in order. The paper names the method (section 9) without a schedule."""

    phases: tuple[UnfreezingPhase, ...] = (
        UnfreezingPhase(trainable="new_rows", share=0.01),
        UnfreezingPhase(trainable="embeddings_and_edges", share=0.04),
        UnfreezingPhase(trainable="all", share=0.95),
    )
    num_edge_layers: int = Field(1, ge=0)
    num_base_rows: int = Field(0, ge=0)
    """Rows of the base vocabulary, which `new_rows` keeps still; 0 trains every row."""

    @model_validator(mode="after")
    def shares_sum_to_one(self) -> Self:
        """Every step belongs to exactly one phase."""
        total = sum(phase.share for phase in self.phases)
        if abs(total - 1.0) > 1e-6:
            sum_text = " + ".join(f"{phase.share:g}" for phase in self.phases)
            raise ValueError(f"shares of the phases are {sum_text} = {total:g}, expected 1")
        return self
