"""Configuration of the synthesis stages: prompts, conversations, tool conversations, collection."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from moss.categories import BUNDLED_CATEGORIES, COLLECTED_CATEGORIES, HARMLESSNESS
from moss.config.base import Config, StageConfig
from moss.config.teacher import TeacherConfig, TeacherRole
from moss.config.tools import ToolsConfig
from moss.types import Language, ToolName

TURNS_ABOVE_CAP_WARNING = 0.2
"""Share of conversations at the cap above which the run's notes say so: the sampler is off."""


class SamplingConfig(Config):
    """How a teacher samples."""

    max_tokens: int = Field(512, ge=1)
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)


class DedupConfig(Config):
    """What counts as a duplicate and as too short; the paper gives no figures (section 5.1)."""

    jaccard: float = Field(0.8, gt=0, le=1)
    """Similarity of character n-gram sets from which two texts are near duplicates."""
    ngram: int = Field(5, ge=1)
    num_permutations: int = Field(128, ge=16)
    min_cjk_characters: int = Field(4, ge=1)
    min_words: int = Field(3, ge=1)


class CallerConfig(Config):
    """How Ray Data carries rows to the teacher."""

    execution_keys: ClassVar[frozenset[str]] = frozenset({"num_cpus", "wait_s"})

    num_cpus: float = Field(0.25, ge=0)
    """CPU share that one caller actor reserves."""
    batch_rows: int = Field(64, ge=1)
    """Rows whose calls one batch starts together; four batches of a block run at once."""
    block_rows: int = Field(256, ge=1)
    """Rows of one block; blocks are what a killed worker repeats (from the ledger) and what order
    waits for. Larger ones cost less CPU time per row."""
    wait_s: float = Field(600.0, gt=0)
    """Longest wait for the next finished row before the stage ends with an error."""
    wave_rows: int = Field(16_384, ge=1)
    """Rows that Ray Data holds at once; the driver reads on when they are through."""


class SynthesisConfig(StageConfig):
    """What every stage that asks a teacher needs."""

    reads_any_storage: ClassVar[bool] = True

    teacher: TeacherConfig = TeacherConfig()
    caller: CallerConfig = CallerConfig()

    def models_asked(self) -> tuple[str, ...]:
        """Names of the models that the stage may ask; each stage says its own."""
        return tuple(self.teacher.models.values())

    @model_validator(mode="after")
    def money_budget_needs_prices(self) -> Self:
        """A cap in dollars cannot hold for a model whose price is unknown."""
        unpriced = sorted(set(self.models_asked()) - set(self.teacher.prices))
        if self.teacher.budget_usd is not None and unpriced:
            raise ValueError(
                f"teacher.budget_usd={self.teacher.budget_usd} but no price for "
                f"{', '.join(unpriced)}, which this stage asks; add it under teacher.prices, such "
                f"as --set 'teacher.prices.\"{unpriced[0]}\"={{prompt: 0.5, completion: 1.5}}' "
                "(dollars per million tokens), or cap with teacher.budget_tokens"
            )
        return self


class SelfInstructConfig(Config):
    """Self-Instruct (paper section 5.1)."""

    num_examples: int = Field(8, ge=1)
    """In-context examples per call (section 5.1)."""
    num_prompts: int = Field(8, ge=1)
    """Prompts asked for per call (section 5.1)."""
    num_synthetic_examples: int = Field(4, ge=0)
    """Examples from synthetic prompts after the first iterations; the rest stay seeds, so that the
    prompts do not drift from them as they outnumber them."""
    seed_only_iterations: int = Field(50, ge=0)
    """First calls of a bucket that show seeds only (section 5.1)."""
    round_iterations: int = Field(500, ge=1)
    """Calls of a bucket between two updates of the pool of synthetic examples."""
    max_iterations: int = Field(1_000_000, ge=1)
    """Calls after which a bucket is given up; its shortfall stands in the notes."""
    max_characters: int = Field(2_000, ge=1)
    sampling: SamplingConfig = SamplingConfig()

    @model_validator(mode="after")
    def synthetic_examples_fit(self) -> Self:
        """Synthetic examples are part of the examples."""
        if self.num_synthetic_examples > self.num_examples:
            raise ValueError(
                f"num_synthetic_examples={self.num_synthetic_examples} is more than num_examples="
                f"{self.num_examples}"
            )
        return self


class SynthesizePromptsConfig(SynthesisConfig):
    """Extend seeds to prompts by Self-Instruct, per category and language (sections 5.1, 6)."""

    seeds: str | None = None
    """Run of `collect_prompts` whose selected seeds are used; None: the bundled 188 seeds."""
    quotas: dict[str, dict[Language, int]]
    """Category -> language -> synthetic prompts wanted (Tables 3 and 5)."""
    red_team: dict[Language, int] = Field(default_factory=dict)
    """Imported harmful prompts per language; never shown to the prompt generator (section 5.1)."""
    self_instruct: SelfInstructConfig = SelfInstructConfig()
    dedup: DedupConfig = DedupConfig()

    def models_asked(self) -> tuple[str, ...]:
        """The generator."""
        return (self.teacher.model("prompts"),)

    @model_validator(mode="after")
    def quotas_name_categories_with_seeds(self) -> Self:
        """A category that no seed has would stay empty."""
        known = BUNDLED_CATEGORIES if self.seeds is None else COLLECTED_CATEGORIES
        if unknown := [name for name in self.quotas if name not in known]:
            whose = "the bundled seeds" if self.seeds is None else f"{self.seeds} and honesty"
            raise ValueError(
                f"quotas: no seed has the category {' or '.join(map(repr, unknown))}"
                f"{_meant_category(unknown[0], known)}; {whose} have {', '.join(known)}"
            )
        return self


def _meant_category(name: str, known: Sequence[str]) -> str:
    if name == HARMLESSNESS:
        return "; such prompts are imported: red_team says how many"
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


class TurnsConfig(Config):
    """Number of turns of a conversation: log-normal (section 5.2, which leaves open of what).

    `moments` reads mu and sigma as mean and deviation of the turn count (the default, which fits
    the released data), `log` as those of its logarithm (76 % at the cap).
    """

    params: Literal["moments", "log"] = "moments"
    mu: float = 3.0
    sigma: float = Field(1.0, gt=0)
    min_turns: int = Field(1, ge=1)
    max_turns: int = Field(10, ge=1)
    overflow: Literal["clip", "redraw"] = "clip"

    @model_validator(mode="after")
    def bounds_are_ordered(self) -> Self:
        """At least one turn count is possible; a mean of counts is positive."""
        if self.min_turns > self.max_turns:
            raise ValueError(f"min_turns={self.min_turns} exceeds max_turns={self.max_turns}")
        if self.params == "moments" and self.mu <= 0:
            raise ValueError(f"mu={self.mu} is a mean turn count and must be positive")
        return self


class SplitConfig(Config):
    """Shares of prompts by purpose; the split is a hash of the prompt id, so parts are disjoint."""

    preference: float = Field(0.0, ge=0, le=1)
    eval: float = Field(0.0, ge=0, le=1)

    @model_validator(mode="after")
    def something_is_left_for_sft(self) -> Self:
        """The rest is for SFT."""
        if self.preference + self.eval >= 1:
            raise ValueError(
                f"preference={self.preference} and eval={self.eval} leave nothing for SFT"
            )
        return self


class SynthesizeConversationsConfig(SynthesisConfig):
    """Complete prompts to multi-turn conversations (sections 5.2, 6)."""

    prompts: str
    """Run of `synthesize_prompts`."""
    recipe: Literal["one_instruction", "two_instructions"] = "two_instructions"
    """One instruction for both sides (section 5.2), or one for each (section 6)."""
    persona: str = "MOSS"
    """Name of a persona in `personas.yaml`."""
    meta_version: str = "moss-003"
    """Meta-instruction put before each conversation; `moss-002` for the warm-up (section 5.2)."""
    models: dict[str, float] = Field(default_factory=dict)
    """Assistant model -> weight. Empty: the role's model in `teacher.models` alone."""
    turns: TurnsConfig = TurnsConfig()
    splits: SplitConfig = SplitConfig()
    sampling: SamplingConfig = SamplingConfig()
    max_prompts: int | None = Field(None, ge=1)

    def models_asked(self) -> tuple[str, ...]:
        """The assistants, and with two instructions the simulated user."""
        if self.recipe == "one_instruction":
            return tuple(self.models or (self.teacher.model("warmup_conversations"),))
        assistants = self.models or (self.teacher.model("conversations"),)
        return (*assistants, self.teacher.model("user_simulator"))


class ToolQuotaConfig(Config):
    """How many conversations of one tool, per language."""

    en: int = Field(0, ge=0)
    zh: int = Field(0, ge=0)


class SynthesizeToolConversationsConfig(SynthesisConfig):
    """Five-section conversations through the deployed tools (section 8.1)."""

    conversations: str
    """Run of `synthesize_conversations` that negative examples are drawn from."""
    quotas: dict[ToolName, ToolQuotaConfig]
    """Conversations per tool (section 8.1: 50K images, 200K of each other tool)."""
    disabled_share: float = Field(0.25, ge=0, lt=1)
    """Share of a tool's conversations in which that tool is switched off."""
    negative_share: float = Field(0.1, ge=0, lt=1)
    """Share of negative examples in the whole set; section 8.1 has them, but gives no share."""
    other_tool_probability: float = Field(0.5, ge=0, le=1)
    """Chance of each tool that is not needed to be on."""
    min_difficulty: int = Field(1, ge=1, le=5)
    """Queries rated below are filtered; 1 keeps all and asks nothing (section 8.1, step 2)."""
    tool_concurrency: int = Field(2, ge=1)
    """Turns whose commands run at once in one caller; a tool's time limit includes its queue."""
    max_tool_attempts: int = Field(3, ge=1)
    """Tries of a turn's commands while one has no result; a busy machine is no property of data."""
    num_demonstrations: int = Field(4, ge=1)
    turns: TurnsConfig = TurnsConfig(mu=1.6, sigma=0.6, max_turns=3)
    splits: SplitConfig = SplitConfig()
    meta_version: str = "moss-003"
    self_instruct: SelfInstructConfig = SelfInstructConfig()
    dedup: DedupConfig = DedupConfig()
    sampling: SamplingConfig = SamplingConfig()
    tools: ToolsConfig = ToolsConfig()

    def models_asked(self) -> tuple[str, ...]:
        """The planner, and who rates difficulty unless every query is kept."""
        roles: tuple[TeacherRole, ...] = ("tools", "difficulty")
        return tuple(self.teacher.model(r) for r in roles[: 2 if self.min_difficulty > 1 else 1])


class VisitorsConfig(Config):
    """Simulated visitors of the chat service, for the first round before it had any."""

    num_prompts: int = Field(400, ge=1)
    consent_share: float = Field(0.95, ge=0, le=1)
    zh_share: float = Field(0.5, ge=0, le=1)
    sampling: SamplingConfig = SamplingConfig(max_tokens=128)


class CollectPromptsConfig(SynthesisConfig):
    """Served prompts to scrubbed, deduplicated, classified, selected seeds (section 6)."""

    source: str | None = None
    """Served prompts: JSONL, Parquet or the chat store, a SQLite file or a `postgresql://` URL
    (password in `PGPASSWORD` or `~/.pgpass`); paths are relative to the workspace. None, or a file
    that is not there yet: simulated visitors."""
    num_seeds: int = Field(10_000, ge=1)
    """Seeds to select (section 6: about 10K)."""
    max_prompts: int | None = Field(None, ge=1)
    visitors: VisitorsConfig = VisitorsConfig()
    dedup: DedupConfig = DedupConfig()
    sampling: SamplingConfig = SamplingConfig(max_tokens=64, temperature=0.0)

    def models_asked(self) -> tuple[str, ...]:
        """Those that simulate visitors, classify and rate."""
        roles: tuple[TeacherRole, ...] = ("user_simulator", "classifier", "difficulty")
        return tuple(self.teacher.model(role) for role in roles)
