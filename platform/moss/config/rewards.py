"""Where PPO's scores come from: one reward, or the weighted sum of several."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from moss.config.base import Config
from moss.secret_keys import find_key


class RewardTerm(Config):
    """What every kind of reward has."""

    name: str | None = Field(None, pattern=r"^[a-z][a-z0-9_]*$")
    """In metrics (`reward/<name>_score`) and in reasons; null: the kind."""
    weight: float = Field(1.0, allow_inf_nan=False)
    """Factor of the score in the sum. `ppo.scale_rewards` divides the sum by the preference model's
    spread where that model is a term; weights of other terms are then in its units."""


class PreferenceModelReward(RewardTerm):
    """Score of the run's `preference_model` over the whole sequence (paper section 7.2)."""

    kind: Literal["preference_model"] = "preference_model"


class HttpReward(RewardTerm):
    """Scores from an HTTP endpoint; `moss.rewards.http` describes the requests and answers."""

    kind: Literal["http"]
    url: str
    """Where rows are posted; redirects are not followed, proxies of the environment not used."""
    api_key_env: str | None = None
    """Environment variable of the reward actor that holds a key; it is sent as a bearer token."""
    rows_per_request: int = Field(32, ge=1)
    concurrency: int = Field(4, ge=1)
    """Requests in flight at once."""
    send_token_ids: bool = False
    """Send token ids beside the texts."""
    timeout_s: float = Field(20.0, gt=0)
    """Bound of one request, connect to last byte."""
    deadline_s: float = Field(90.0, gt=0)
    """Bound of a whole batch, waits and retries included; rows without a score by then fail."""
    max_attempts: int = Field(4, ge=1)
    """Tries of one request."""
    backoff_s: float = Field(0.5, ge=0)
    """Wait after the first failure, three times as long after each further one, with jitter; what
    the endpoint asks for by Retry-After goes before."""
    max_backoff_s: float = Field(10.0, ge=0)
    max_retry_after_s: float = Field(30.0, ge=0)
    """A longer Retry-After fails the rows of the request instead of being waited for."""

    @field_validator("url")
    @classmethod
    def url_names_a_scheme(cls, value: str) -> str:
        """Without it the first request would fail instead of the config."""
        if not value.startswith(("http://", "https://")):
            raise ValueError("an endpoint's URL starts with http:// or https://")
        return value

    def api_key(self) -> str | None:
        """The key, see `moss.secret_keys.find_key`; None where none is wanted or set."""
        return find_key(self.api_key_env) if self.api_key_env else None


class FunctionReward(RewardTerm):
    """Scores from a Python function; `moss.rewards.function` describes the call."""

    kind: Literal["function"]
    function: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")
    """`module:function`, importable where the reward actor runs."""


class ToolJudgeReward(RewardTerm):
    """A verifiable reward: is the answer the prompt's reference answer? Rules:
    `moss.rewards.tool_judge`."""

    kind: Literal["tool_judge"]
    judged: Literal["reply", "commands"] = "reply"
    """The final answer of the reply; or what the calculator or equation solver gives for the last
    command of the response, which takes `rollout.tools`."""
    reference_column: str = "answer"
    """Column of the prompts' Parquet: a number (`19`, `5/36`) or a solution (`x = 2, y = 3`)."""
    relative_tolerance: float = Field(0.0, ge=0, lt=1)
    """Numbers this close are equal; 0 compares exactly."""
    right_score: float = Field(1.0, allow_inf_nan=False)
    wrong_score: float = Field(0.0, allow_inf_nan=False)
    deadline_s: float = Field(60.0, gt=0)
    """Bound of all commands of a batch; rows not judged by then fail."""


AnyReward = Annotated[
    PreferenceModelReward | HttpReward | FunctionReward | ToolJudgeReward,
    Field(discriminator="kind"),
]


class RewardsConfig(Config):
    """The reward of a response: the sum of `terms`, normalized, clipped (`ppo.reward_clip`)."""

    terms: tuple[AnyReward, ...] = (PreferenceModelReward(),)
    """Each `{kind: ..., ...}`; a row that one of them cannot score is dropped."""
    columns: tuple[str, ...] = ()
    """Columns of the prompts' Parquet that `http` and `function` rewards see."""
    normalization: Literal["none", "running", "batch"] = "none"
    """Less the mean and over the spread of all scores so far (`running`, kept in checkpoints) or of
    the iteration's (`batch`), in place of `ppo.scale_rewards`."""
    max_failed_fraction: float = Field(1.0, ge=0, le=1)
    """The run ends where more of an iteration's rows fail; it always ends where all do."""

    @model_validator(mode="after")
    def there_is_a_term(self) -> Self:
        """A sum of nothing teaches nothing."""
        if not self.terms:
            raise ValueError("rewards.terms is empty; name at least one reward, or leave it out")
        return self

    @model_validator(mode="after")
    def names_differ(self) -> Self:
        """Terms of one name would share a metric."""
        names = list(self.by_name)
        if len(names) < len(self.terms):
            raise ValueError(
                f"{len(self.terms)} terms have the names {', '.join(names)}; give each a `name`"
            )
        return self

    @property
    def by_name(self) -> dict[str, AnyReward]:
        """Name to term, in order."""
        return {term.name or term.kind: term for term in self.terms}

    @property
    def key_names(self) -> list[str]:
        """Environment variables that hold keys of the terms."""
        terms = [term for term in self.terms if isinstance(term, HttpReward)]
        return [term.api_key_env for term in terms if term.api_key_env]

    @property
    def uses_preference_model(self) -> bool:
        """Whether a term reads the preference model."""
        return any(term.kind == "preference_model" for term in self.terms)

    @property
    def all_columns(self) -> tuple[str, ...]:
        """Columns of the prompts that some term reads, each once."""
        judged = [t.reference_column for t in self.terms if isinstance(t, ToolJudgeReward)]
        return tuple(dict.fromkeys([*self.columns, *judged]))

    @property
    def deadline_s(self) -> float:
        """Longest that the terms which bound themselves take together for a batch."""
        return sum(t.deadline_s for t in self.terms if isinstance(t, HttpReward | ToolJudgeReward))
