"""How responses are sampled, as configuration: sampling, engine, tools inside a rollout."""

from __future__ import annotations

from typing import ClassVar, Final, Literal, Self

from pydantic import Field, model_validator

from moss.config.base import Config
from moss.config.tools import ToolsConfig

_STEP_TOKENS: Final = 2048
MOST_GPU_SHARE: Final = 0.92
"""vLLM starts only where this share of a GPU is free, or its actor's smaller share, however small
the cache that it is told to take."""


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


class ToolRolloutConfig(ToolsConfig):
    """Tools inside a rollout: `moss.tool_rollouts` describes what happens."""

    max_rounds: int = Field(0, ge=0, le=8)
    """Times that tools may run in one response. 0: never, and responses begin with the reply; else
    they begin with the inner thoughts or commands, where the prompt's switches have them on. The
    format has one round (8.1); a further one takes commands that the policy ends with `<eoc>` where
    its reply should stand."""
    max_thought_tokens: int = Field(64, ge=1)
    max_command_tokens: int = Field(64, ge=1)
    max_results_tokens: int = Field(256, ge=1)
    """Of one round's Results and all headers; where they are longer, every call has no result."""
    concurrency: int = Field(2, ge=1)
    """Responses of a rollout actor whose tools run at once."""
    timeout_s: float = Field(60.0, gt=0)
    """Bound of one round of a rollout actor's tools; calls not done by then have no result."""

    @property
    def max_sampled_tokens(self) -> int:
        """Tokens that the policy writes before its reply."""
        return self.max_thought_tokens + self.max_command_tokens if self.max_rounds else 0

    @property
    def max_inserted_tokens(self) -> int:
        """Tokens of a response that the policy does not write."""
        return self.max_rounds * self.max_results_tokens


class RolloutConfig(Config):
    """How responses are sampled for PPO."""

    execution_keys: ClassVar[frozenset[str]] = frozenset({"sleep_level"})

    engine: Literal["vllm", "transformers"] = "vllm"
    sampling: SamplingParams = SamplingParams()
    max_prompt_tokens: int = Field(512, ge=1)
    """A longer prompt is recorded as filtered, never cut."""
    vllm: VLLMConfig = VLLMConfig()
    tools: ToolRolloutConfig = ToolRolloutConfig()
    num_parts: int = Field(4, ge=1)
    """Parts in which an iteration's responses leave a rollout actor, in the order in which they
    end: each is scored while the next is written, unless engines sleep. Fewer where a part would
    hold less than `ppo.micro_batch_size`, one with `one_step_off`."""
    one_step_off: bool = False
    """Sample the responses of the next iteration while this one is scored and learned from, with
    the weights that it began with: generation and updates overlap, and every update but the first
    learns from responses of the policy one version before. `ppo.importance_cap` corrects for it."""
    sleep_level: Literal[0, 1, 2] = 0
    """What engines free of their devices from the last response of an iteration to the next push of
    weights, for roles that share the devices (`placement.groups`): nothing (0); all, keeping the
    weights in the node's memory (1); all, dropping the weights, which the push brings (2; what
    Transformers samples with is always kept). vLLM sleeps on GPUs only."""

    @model_validator(mode="after")
    def sampling_is_random(self) -> Self:
        """Policy gradients need more than one possible response."""
        if self.sampling.temperature == 0:
            raise ValueError("sampling.temperature=0 explores nothing; PPO needs a value above 0")
        return self

    @model_validator(mode="after")
    def engines_at_work_stay_awake(self) -> Self:
        """During updates an engine either sleeps or samples."""
        if self.one_step_off and self.sleep_level:
            raise ValueError(
                f"one_step_off samples during updates, and with sleep_level={self.sleep_level} "
                "engines sleep then; set one_step_off=false or sleep_level=0"
            )
        return self

    @property
    def max_sequence_tokens(self) -> int:
        """Longest prompt and response together."""
        return self.max_prompt_tokens + self.max_sampled_tokens + self.tools.max_inserted_tokens

    @property
    def max_sampled_tokens(self) -> int:
        """Most tokens of a response that the policy writes: those before its reply, and the reply
        of at most `sampling.max_new_tokens`."""
        return self.sampling.max_new_tokens + self.tools.max_sampled_tokens
