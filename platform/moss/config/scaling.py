"""How many replicas a deployment of the chat service has, and what makes it more or fewer."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from moss.config.base import Config


class ScalingConfig(Config):
    """Replicas of one deployment; their number follows the queue where the two bounds differ."""

    min_replicas: int = Field(1, ge=1)
    max_replicas: int = Field(1, ge=1)
    target_ongoing_requests: float = Field(8.0, gt=0, le=100)
    """Requests per replica, running and waiting: when there are more on average a replica is
    added, when there are fewer one ends."""
    look_back_s: float = Field(30.0, gt=10)
    """The average is over so long; Ray Serve counts every ten seconds."""
    upscale_delay_s: float = Field(30.0, ge=0)
    """How long there must be more before a replica is added."""
    downscale_delay_s: float = Field(600.0, ge=0)
    """How long there must be fewer before one ends; it finishes what it is answering."""

    @model_validator(mode="after")
    def bounds_are_in_order(self) -> Self:
        """The least is not above the most."""
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas={self.min_replicas} is above max_replicas={self.max_replicas}; "
                "raise the second or lower the first"
            )
        return self

    @property
    def is_automatic(self) -> bool:
        """Whether the number of replicas follows the queue."""
        return self.max_replicas > self.min_replicas
