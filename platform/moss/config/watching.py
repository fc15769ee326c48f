"""What is watched while a stage of reinforcement learning runs."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from moss.config.base import StageConfig
from moss.config.monitors import MonitorsConfig
from moss.config.tracking import TrackingConfig


class WatchedStageConfig(StageConfig):
    """A stage with monitors, samples and services."""

    execution_keys: ClassVar[frozenset[str]] = StageConfig.execution_keys | {
        "tracking",
        "ray_metrics",
        "sample_every",
        "num_samples",
    }

    monitors: MonitorsConfig = MonitorsConfig()
    """Limits past which a run warns or stops."""
    tracking: TrackingConfig = TrackingConfig()
    """Where metrics go besides `metrics.jsonl` and TensorBoard."""
    ray_metrics: bool = True
    """The main series as Ray metrics, which a cluster's Prometheus reads."""
    sample_every: int = Field(10, ge=0)
    """Iterations between samples of prompts and responses in `samples.jsonl`; 0 for none."""
    num_samples: int = Field(4, ge=1)
    """Rollouts shown each time."""
