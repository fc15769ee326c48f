"""Rows that the synthesis stages start from: buckets, quotas, imports, turns and splits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from moss.categories import HARMLESSNESS
from moss.config.synthesis import (
    TURNS_ABOVE_CAP_WARNING,
    SynthesizeConversationsConfig,
    SynthesizePromptsConfig,
    SynthesizeToolConversationsConfig,
)
from moss.errors import ConfigError
from moss.recipes import Row, stable_unit, text_of
from moss.selfinstruct import Example
from moss.subsets import draw_rows
from moss.turns import choose_split, choose_weighted, sample_turns
from moss.types import LANGUAGES, Language


def bucket_name(category: str, language: str) -> str:
    """A (category, language) pair as one name; `bucket_of` takes it apart."""
    return f"{category}-{language}"


def bucket_of(bucket: str) -> tuple[str, Language]:
    """Category and language of a bucket."""
    category, _, language = bucket.rpartition("-")
    assert language in LANGUAGES, bucket
    return category, language


def quotas_of(quotas: Mapping[str, Mapping[Language, int]]) -> dict[str, int]:
    """Bucket -> prompts wanted; buckets that want none are left out."""
    return {
        bucket_name(category, language): count
        for category, by_language in sorted(quotas.items())
        for language, count in sorted(by_language.items())
        if count > 0
    }


def group_seeds(
    rows: Iterable[Mapping[str, object]], quotas: Mapping[str, int]
) -> dict[str, list[Example]]:
    """Bucket -> seeds in ascending order of id, for every bucket that has a quota.

    A bucket without seeds stays empty; its shortfall is noted when the stage ends.

    Raises:
        ConfigError: no bucket with a quota has a seed.
    """
    grouped: dict[str, list[Example]] = {bucket: [] for bucket in quotas}
    for row in rows:
        bucket = bucket_name(text_of(row, "category"), text_of(row, "language"))
        if bucket in grouped:
            grouped[bucket].append(Example(text_of(row, "id"), text_of(row, "text")))
    if grouped and not any(grouped.values()):
        raise ConfigError(
            f"no seed for any of {', '.join(sorted(grouped))}; check the categories under quotas "
            "and the run that seeds names"
        )
    return {b: sorted(seeds, key=lambda seed: seed.id) for b, seeds in grouped.items()}


def red_team_rows(
    config: SynthesizePromptsConfig, imported: Sequence[Row]
) -> tuple[list[Row], list[str]]:
    """Imported harmful prompts up to the quota of each language, the rest skipped; and notes."""
    rows: list[Row] = []
    notes: list[str] = []
    for language in LANGUAGES:
        quota = config.red_team.get(language, 0)
        offered = [row for row in imported if row["language"] == language]
        offered.sort(key=lambda row: stable_unit(config.seed, "red_team", row["id"]))
        if len(offered) < quota:
            notes.append(f"{len(offered)} red-team prompts in {language}, {quota} wanted")
        for position, row in enumerate(offered):
            is_used = position < quota
            rows.append(
                {
                    "id": row["id"],
                    "status": "ok" if is_used else "skipped",
                    "step": "import",
                    "reason": "" if is_used else "quota met",
                    "text": row["text"],
                    "language": language,
                    "category": HARMLESSNESS,
                    "source": "red_team",
                }
            )
    return rows, notes


@dataclass(slots=True)
class ConversationPlan:
    """One row per conversation to make, made as they are iterated, and counts of those made."""

    config: SynthesizeConversationsConfig
    prompts: Iterable[Row]
    """In ascending order of id; read twice when `max_prompts` is set."""
    default_model: str
    num_rows: int = 0
    num_clipped: int = 0
    """Rows that drew a turn count beyond the bounds."""

    def __iter__(self) -> Iterator[Row]:
        config = self.config
        prompts = self.prompts
        if config.max_prompts is not None:
            prompts = draw_rows(
                prompts,
                config.max_prompts,
                lambda row: stable_unit(config.seed, "subset", row["id"]),
            )
        return (self._row(prompt) for prompt in prompts)

    def _row(self, prompt: Row) -> Row:
        config = self.config
        prompt_id = text_of(prompt, "id")
        row_id = f"conversation-{prompt_id}"
        count = sample_turns(config.turns, seed=config.seed, row_id=row_id)
        weights = config.models or {self.default_model: 1.0}
        model = choose_weighted(weights, seed=config.seed, row_id=row_id)
        self.num_rows += 1
        self.num_clipped += count.is_clipped
        return {
            "id": row_id,
            "prompt_id": prompt_id,
            "prompt": prompt["text"],
            "language": prompt["language"],
            "category": prompt["category"],
            "split": choose_split(config.splits, prompt_id=prompt_id),
            "num_turns": count.turns,
            "grade_model": model,
            "model": model,
            "parents": [prompt_id],
        }


def turn_notes(num_clipped: int, num_rows: int, max_turns: int) -> list[str]:
    """A warning when too many conversations sit at the cap."""
    if num_rows and num_clipped / num_rows > TURNS_ABOVE_CAP_WARNING:
        return [
            f"{num_clipped / num_rows:.0%} of conversations drew a turn count outside the bounds "
            f"and were moved to one of them, mostly {max_turns}; check `turns`"
        ]
    return []


def tool_buckets(config: SynthesizeToolConversationsConfig) -> dict[str, int]:
    """Bucket -> queries wanted, per tool and language."""
    return {
        bucket_name(tool, language): count
        for tool, quota in sorted(config.quotas.items())
        for language, count in (("en", quota.en), ("zh", quota.zh))
        if count > 0
    }


def tool_query_rows(
    config: SynthesizeToolConversationsConfig, queries: Iterable[Row]
) -> Iterator[Row]:
    """One row per accepted query, positive or with its tool switched off."""
    for query in queries:
        if query["status"] != "ok":
            continue
        query_id = text_of(query, "id")
        row_id = f"tool-{query_id}"
        is_disabled = stable_unit(config.seed, "disabled", row_id) < config.disabled_share
        yield {
            "id": row_id,
            "prompt_id": query_id,
            "query": query["text"],
            "language": query["language"],
            "category": "tool",
            "tool": query["category"],
            "kind": "disabled" if is_disabled else "positive",
            "split": choose_split(config.splits, prompt_id=query_id),
            "num_turns": sample_turns(config.turns, seed=config.seed, row_id=row_id).turns,
            "parents": [query_id],
        }


def negatives_wanted(config: SynthesizeToolConversationsConfig, *, num_tool_rows: int) -> int:
    """Negative examples that make `negative_share` of the whole set."""
    return round(num_tool_rows * config.negative_share / (1 - config.negative_share))


def negative_rows(
    config: SynthesizeToolConversationsConfig, conversations: Iterable[Row], wanted: int
) -> Iterator[Row]:
    """Up to `wanted` conventional SFT conversations to switch tools on in.

    Args:
        conversations: in ascending order of id; read twice.
    """
    kept = ("prompt_id", "language", "category", "split", "conversation", "num_turns")

    def lot(row: Row) -> float | None:
        return stable_unit(config.seed, "negative", row["id"]) if row["split"] == "sft" else None

    for row in draw_rows(conversations, wanted, lot):
        yield {
            **{name: row[name] for name in (*kept, "grade_model")},
            "id": f"negative-{row['id']}",
            "tool": "none",
            "kind": "negative",
            "parents": [row["id"]],
        }
