"""Hand-written data that synthesis starts from: seeds, red-team prompts, tool demonstrations.

The seeds are ours, in the paper's counts (Table 3): helpfulness 70 en and 60 zh, honesty 28 en and
30 zh, harmlessness none. Red-team prompts are a separate source and never shown to the prompt
generator (section 5.1).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import resources
from typing import Final, TypeVar

from moss.errors import DataError
from moss.types import LANGUAGES, TOOL_NAMES, Language, ToolName

Bucket = tuple[str, Language]

SEED_COUNTS: Final[Mapping[Bucket, int]] = {
    ("helpfulness", "en"): 70,
    ("helpfulness", "zh"): 60,
    ("honesty", "en"): 28,
    ("honesty", "zh"): 30,
}
"""Seeds per category and language (Table 3)."""


@dataclass(frozen=True, slots=True)
class SeedPrompt:
    """One hand-written prompt."""

    id: str
    category: str
    language: Language
    text: str


@dataclass(frozen=True, slots=True)
class ToolDemonstration:
    """One hand-made example of inner thoughts and commands (paper section 8.1, step 3)."""

    id: str
    language: Language
    tool: ToolName
    """The tool the example is about; a declined one shows a query that needs no call."""
    query: str
    thoughts: str
    commands: str
    """In the command grammar, or `None`."""


def load_seeds(
    text: str | None = None, counts: Mapping[Bucket, int] = SEED_COUNTS
) -> list[SeedPrompt]:
    """The seed prompts, in file order.

    Args:
        text: JSON Lines; the bundled seeds if None.
        counts: prompts that each (category, language) must have.
    Raises:
        DataError: malformed rows, duplicates, or counts that differ from the declared ones.
    """
    seeds = _read(SeedPrompt, "seeds.jsonl", text)
    found = Counter((seed.category, seed.language) for seed in seeds)
    if found != Counter(counts):
        wrong = sorted(
            bucket for bucket in {*found, *counts} if found[bucket] != counts.get(bucket, 0)
        )
        raise DataError(
            "seed counts differ from the declared ones: "
            + "; ".join(
                f"{category}/{language} has {found[category, language]}, "
                f"declared {counts.get((category, language), 0)}"
                for category, language in wrong
            )
        )
    return seeds


def load_red_team(text: str | None = None) -> list[SeedPrompt]:
    """Harmful prompts of our own that a helpful assistant refuses.

    Raises:
        DataError: malformed rows or duplicates.
    """
    return _read(SeedPrompt, "red_team.jsonl", text)


def load_demonstrations(text: str | None = None) -> list[ToolDemonstration]:
    """Tool demonstrations of all four tools in both languages, declined ones included.

    Raises:
        DataError: malformed rows, duplicates, or an unknown tool.
    """
    found = _read(ToolDemonstration, "tool_demonstrations.jsonl", text)
    for item in found:
        if item.tool not in TOOL_NAMES:
            raise DataError(f"{item.id}: tool {item.tool!r} is none of {', '.join(TOOL_NAMES)}")
    return found


R = TypeVar("R", SeedPrompt, ToolDemonstration)


def _read(row_class: type[R], name: str, text: str | None) -> list[R]:
    if text is None:
        text = (resources.files("moss") / "data" / name).read_text(encoding="utf-8")
    expected = [field.name for field in fields(row_class)]
    rows: list[R] = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            data = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{name}, line {number} is not JSON: {error}") from error
        if not isinstance(data, dict) or sorted(data) != sorted(expected):
            raise DataError(f"{name}, line {number} needs exactly the keys {', '.join(expected)}")
        if data["language"] not in LANGUAGES:
            raise DataError(f"{name}, line {number}: language {data['language']!r} is not en or zh")
        rows.append(row_class(**data))
    _refuse_duplicates(name, [row.id for row in rows])
    _refuse_duplicates(name, [f"{row.language} {_text_of(row)}" for row in rows])
    return rows


def _text_of(row: SeedPrompt | ToolDemonstration) -> str:
    return row.text if isinstance(row, SeedPrompt) else row.query


def _refuse_duplicates(name: str, keys: Sequence[str]) -> None:
    repeated = [key for key, count in Counter(keys).items() if count > 1]
    if repeated:
        raise DataError(f"{name} holds {repeated[0]!r} more than once")
