"""Configuration of preference labelling."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator

from moss.config.base import Config
from moss.config.synthesis import SamplingConfig, SynthesisConfig


class ResponseSamplingConfig(Config):
    """How MOSS-SFT answers."""

    max_tokens: int = Field(512, ge=1)
    temperature: float = Field(0.7, ge=0)
    top_p: float = Field(0.8, gt=0, le=1)
    batch_rows: int = Field(32, ge=1)
    num_threads: int = Field(1, ge=1)
    num_cpus: float = Field(1.0, ge=0)


class LabelPreferencesConfig(SynthesisConfig):
    """Six responses per conversation, all 15 pairs judged in both orders (section 7.1)."""

    reads_any_storage: ClassVar[bool] = False

    conversations: str
    """Run of `synthesize_conversations`; its `preference` split is used."""
    checkpoint: str
    """Run of MOSS-SFT, the sixth responder."""
    checkpoint_name: str = "MOSS-SFT"
    response_models: tuple[str, ...] = (
        "text-ada-001",
        "text-babbage-001",
        "text-curie-001",
        "text-davinci-001",
        "gpt-3.5-turbo",
    )
    """The teacher's models that respond (section 7.1)."""
    num_prompts: int = Field(113_000, ge=1)
    """Conversations to label (section 7.1: 113K)."""
    validation_share: float = Field(0.1, gt=0, lt=1)
    """Share of prompts held out; the split is by prompt, never by pair."""
    persona: str = "MOSS"
    sampling: SamplingConfig = SamplingConfig()
    judge_sampling: SamplingConfig = SamplingConfig(max_tokens=256, temperature=0.0)
    response: ResponseSamplingConfig = ResponseSamplingConfig()

    def models_asked(self) -> tuple[str, ...]:
        """The responders and the judge."""
        return (*self.response_models, self.teacher.model("judge"))

    @model_validator(mode="after")
    def responders_are_distinct(self) -> Self:
        """Pairs of one model are too close for a judge (section 7.1)."""
        names = [*self.response_models, self.checkpoint_name]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} would respond twice; list each model once")
        return self
