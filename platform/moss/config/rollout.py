"""How responses are sampled, as configuration: sampling, engine, tools inside a rollout."""

from __future__ import annotations

from typing import Final, Literal, Self

from pydantic import Field, model_validator

from moss.config.base import Config

_STEP_TOKENS: Final = 2048


class SamplingParams(Config):
    """How the next token is drawn. A logprob is always one of the distribution drawn from."""

    temperature: float = Field(1.0, ge=0)
    """Logits are divided by it; 0 takes the likeliest token, and logprobs are then those at 1."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Keep the smallest set of tokens with at least this probability and renormalise."""
    max_new_tokens: int = Field(64, ge=1)


class VLLMConfig(Config):
    """What one vLLM engine takes."""

    kv_cache_gib: float = Field(1.0, gt=0)
    """Memory for keys and values, GiB; `max_num_seqs` whole sequences should fit."""
    max_num_seqs: int = Field(64, ge=1)
    """Responses decoded at once."""

    def max_step_tokens(self, max_sequence_tokens: int) -> int:
        """Prompt tokens that one engine step takes: whole prompts, and many short ones together."""
        return max(_STEP_TOKENS, max_sequence_tokens)


class RolloutConfig(Config):
    """How responses are sampled for PPO."""

    engine: Literal["vllm", "transformers"] = "vllm"
    sampling: SamplingParams = SamplingParams()
    max_prompt_tokens: int = Field(512, ge=1)
    """A longer prompt is recorded as filtered, never cut."""
    vllm: VLLMConfig = VLLMConfig()

    @model_validator(mode="after")
    def sampling_is_random(self) -> Self:
        """Policy gradients need more than one possible response."""
        if self.sampling.temperature == 0:
            raise ValueError("sampling.temperature=0 explores nothing; PPO needs a value above 0")
        return self

    @property
    def max_sequence_tokens(self) -> int:
        """Longest prompt and response together."""
        return self.max_prompt_tokens + self.sampling.max_new_tokens
