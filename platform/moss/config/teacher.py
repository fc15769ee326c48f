"""Where the teacher is, how hard it may be driven, and what it may cost."""

from __future__ import annotations

from decimal import Decimal
from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from moss.config.base import Config, parse_config
from moss.secret_keys import find_key

TeacherRole = Literal[
    "prompts",
    "warmup_conversations",
    "conversations",
    "user_simulator",
    "tools",
    "classifier",
    "difficulty",
    "judge",
]
"""The steps that ask a teacher; each names its model in `TeacherConfig.models`."""

PAPER_MODELS: dict[TeacherRole, str] = {
    "prompts": "text-davinci-003",
    "warmup_conversations": "text-davinci-003",
    "conversations": "gpt-3.5-turbo",
    "user_simulator": "gpt-3.5-turbo",
    "tools": "text-davinci-003",
    "classifier": "text-davinci-002",
    "difficulty": "gpt-3.5-turbo",
    "judge": "gpt-4",
}
"""Sections 5, 6, 7.1 and 8.1; `user_simulator` and `difficulty` are ours (section 6 names none)."""


class ModelPrice(Config):
    """What one model costs, in US dollars per million tokens."""

    prompt: Decimal = Field(ge=0)
    completion: Decimal = Field(ge=0)


class TeacherConfig(Config):
    """One OpenAI-compatible endpoint and the limits of this run on it."""

    execution_keys: ClassVar[frozenset[str]] = frozenset(
        {
            "api_key_env",
            "concurrency",
            "num_callers",
            "requests_per_minute",
            "tokens_per_minute",
            "breaker_s",
            "timeout_s",
            "backoff_s",
            "max_backoff_s",
            "max_retry_after_s",
            "budget_tokens",
            "budget_usd",
        }
    )

    base_url: str | None = None
    """Such as `https://host/v1`. None: `TEACHER_BASE_URL`, else the embedded offline teacher."""
    api_key_env: str = "TEACHER_API_KEY"
    """Environment variable that holds the key, or with `_FILE` behind its name the path of a file
    that does; the key itself never stands in a config."""
    concurrency: int = Field(64, ge=1)
    """Most requests in flight at once, over all callers of the run."""
    num_callers: int = Field(1, ge=1)
    """Caller actors that share `concurrency`; one fills about 300 requests/s of a core."""
    requests_per_minute: float | None = Field(None, gt=0)
    """Most requests to start per minute, over all runs on the endpoint. None: what its
    `x-ratelimit-*` headers say, else no limit; where both are known the lower one holds."""
    tokens_per_minute: float | None = Field(None, gt=0)
    """The same for prompt plus completion tokens."""
    breaker_s: float = Field(60.0, gt=0)
    """The run stops, resumably, when requests have failed this long without one answer."""
    timeout_s: float = Field(60.0, gt=0)
    """Bound of one HTTP request, connect to last byte."""
    max_attempts: int = Field(8, ge=1)
    """Tries of one request; refusals for lack of capacity (429) do not count."""
    max_refusals: int = Field(100, ge=1)
    """Refusals for lack of capacity after which one request is given up."""
    backoff_s: float = Field(0.25, ge=0)
    """Wait after the first failure, three times as long after each further one, with jitter; what
    the endpoint asks for by Retry-After goes before. While other
    requests are answered, the first retry does not wait."""
    max_backoff_s: float = Field(30.0, ge=0)
    max_retry_after_s: float = Field(300.0, ge=0)
    """A longer Retry-After ends the run instead of being waited for."""
    budget_tokens: int | None = Field(None, gt=0)
    """Prompt plus completion tokens this run may use; reserved before sending, never exceeded."""
    budget_usd: Decimal | None = Field(None, gt=0)
    prices: dict[str, ModelPrice] = Field(default_factory=dict)
    """Model name -> price; needed of each model asked for `budget_usd`, and for spend in reports.
    In `--set` a name with dots stands in quotes: `'teacher.prices."gpt-3.5-turbo".prompt=0.5'`."""
    models: dict[TeacherRole, str] = Field(default_factory=lambda: dict(PAPER_MODELS))
    """Role -> model name at the endpoint; roles left out keep the paper's model."""
    completion_models: tuple[str, ...] = ()
    """Models that answer only `/completions`, so that single prompts are sent there."""

    @field_validator("base_url")
    @classmethod
    def base_url_names_a_scheme(cls, value: str | None) -> str | None:
        """Without it the client's error would say that nothing answers there."""
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError("a base URL starts with http:// or https://, and mostly ends in /v1")
        return value

    @model_validator(mode="before")
    @classmethod
    def unnamed_roles_keep_the_papers_model(cls, data: object) -> object:
        """Fill `models` up with the paper's names."""
        if isinstance(data, dict) and isinstance(data.get("models"), dict):
            return {**data, "models": {**PAPER_MODELS, **data["models"]}}
        return data

    @property
    def is_capped(self) -> bool:
        """Whether a budget is set."""
        return self.budget_tokens is not None or self.budget_usd is not None

    def model(self, role: TeacherRole) -> str:
        """Name of the model that plays `role`."""
        return self.models[role]

    def with_base_url(self, base_url: str) -> TeacherConfig:
        """The same config pointed at `base_url`. Raises ConfigError if that is no http URL."""
        data = self.model_dump() | {"base_url": base_url.rstrip("/")}
        return parse_config(TeacherConfig, data, source=f"endpoint {base_url!r}")

    def api_key(self) -> str | None:
        """The key, see `moss.secret_keys.find_key`; None where there is none."""
        return find_key(self.api_key_env)
