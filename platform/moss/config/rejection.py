"""Config of rejection-sampling fine-tuning, a third way to use the preference model."""

from __future__ import annotations

from pydantic import Field

from moss.config.base import StageConfig
from moss.config.evaluation import GenerationConfig
from moss.config.optimization import TrainingConfig


class TrainRejectionSamplingConfig(StageConfig):
    """Fine-tune on the best of several responses to each of PPO's prompts, by preference score."""

    run_id: str = "MOSS-RS"
    base: str = "MOSS-SFT"
    """Run whose policy answers, and is then trained on the best of its own answers."""
    preference_model: str = "preference-model"
    prompts: str = "MOSS-PAT"
    """Run whose `data/prompts.parquet` it shares with PPO."""
    num_prompts: int = Field(100_000, ge=1)
    """Prompts that are answered, drawn by `seed`; fewer when there are fewer."""
    num_samples: int = Field(4, ge=2)
    """Responses to each prompt, of which one is kept."""
    generation: GenerationConfig = GenerationConfig(temperature=1.0, top_p=1.0)
    training: TrainingConfig
