"""Where metrics go besides `metrics.jsonl` and TensorBoard, which every run writes.

A service is imported only where it is chosen, and its credentials come from its own environment
variables. A service that fails while a run works is left out from then on, with a warning.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from moss.config.base import Config


class MLflowConfig(Config):
    """MLflow; needs the package `mlflow-skinny` or `mlflow`."""

    tracking_uri: str | None = None
    """Server or folder that keeps the runs; null takes `MLFLOW_TRACKING_URI`."""
    experiment: str = Field("moss", min_length=1)


class WandbConfig(Config):
    """Weights & Biases; needs the package `wandb`."""

    project: str = Field("moss", min_length=1)
    mode: Literal["online", "offline"] | None = None
    """`offline` writes below the run's folder, for `wandb sync` later; null takes `WANDB_MODE`, or
    `online` where that is not set."""


class TrackingConfig(Config):
    """Services that a run reports to while it works."""

    mlflow: MLflowConfig | None = None
    """Null for none; `{}` takes every default."""
    wandb: WandbConfig | None = None
    """Null for none; `{}` takes every default."""
