"""Data of the closed domain, read once: phrases per language, tables of things, facts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import yaml

from moss.types import Language

Phrases = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Row:
    """One thing of a table: its key and its slots in each language."""

    key: str
    slots: Mapping[Language, Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Table:
    """Things of one sort; `pattern` finds the longest one named in a text."""

    rows: Mapping[str, Row]
    names: Mapping[Language, Mapping[str, str]]
    """Name as written (casefolded) -> key."""
    pattern: Mapping[Language, re.Pattern[str]]

    def find(self, text: str, language: Language) -> str | None:
        """Key of the first, longest thing that the text names."""
        found = self.pattern[language].search(text.casefold())
        return self.names[language][found.group()] if found else None


@dataclass(frozen=True, slots=True)
class Fact:
    """One attribute of one entity."""

    id: str
    entity: Mapping[Language, str]
    attribute: str
    value: Mapping[Language, str]
    description: Mapping[Language, str]
    """What the entity is: "a country in Europe"."""
    is_held_out: bool
    """Asked about in evaluation only: no answer to it is ever trained on."""


@cache
def phrases(language: Language) -> Mapping[str, Phrases]:
    """Phrases of every kind."""
    loaded: Mapping[str, Phrases] = yaml.safe_load(_read(f"world/phrases.{language}.yaml"))
    return loaded


@cache
def lines(
    language: Language, kind: str, section: str, key: str = "", *, exact: bool = False
) -> tuple[str, ...]:
    """The phrasings of one section: those for `key` (and, unless `exact`, those for any key)."""
    found = phrases(language)[kind].get(section, ())
    if isinstance(found, Mapping):
        own = tuple(found.get(key, ()))
        return own if exact else (*own, *found.get("any", ()))
    if isinstance(found, str):
        return (found,)
    assert isinstance(found, Sequence)
    return tuple(str(item) for item in found)


@cache
def named(language: Language, kind: str, section: str) -> Mapping[str, str]:
    """A section that maps keys to words."""
    found = phrases(language)[kind][section]
    assert isinstance(found, Mapping)
    return found


@cache
def tables() -> Mapping[str, Table]:
    """Every table of `tables.yaml` by name."""
    loaded = yaml.safe_load(_read("world/tables.yaml"))
    return {name: _table(data["slots"], data["rows"]) for name, data in loaded.items()}


@cache
def facts() -> Mapping[str, Fact]:
    """Every fact by id, in file order."""
    found = {}
    for line in _read("facts.jsonl").splitlines():
        row = json.loads(line)
        pair: dict[str, Mapping[Language, str]] = {
            name: {"en": row[f"{name}_en"], "zh": row[f"{name}_zh"]}
            for name in ("entity", "value", "class")
        }
        found[row["id"]] = Fact(
            row["id"],
            pair["entity"],
            row["attribute"],
            pair["value"],
            pair["class"],
            is_held_out=row.get("held_out", False),
        )
    return found


@cache
def entities() -> Table:
    """Entities of the facts as a table; the key is the English name."""
    rows = {fact.entity["en"]: fact.entity for fact in facts().values()}
    return _table(["entity"], [[pair["en"], pair["zh"]] for pair in rows.values()])


@cache
def facts_of(entity: str) -> Mapping[str, Fact]:
    """Facts of one entity (English name) by attribute."""
    return {fact.attribute: fact for fact in facts().values() if fact.entity["en"] == entity}


def _table(slots: Sequence[str], cells: Sequence[Sequence[str]]) -> Table:
    rows: dict[str, Row] = {}
    names: dict[Language, dict[str, str]] = {"en": {}, "zh": {}}
    for row in cells:
        english = dict(zip(slots, map(str, row[0::2]), strict=True))
        chinese = dict(zip(slots, map(str, row[1::2]), strict=True))
        key = str(row[0])
        rows[key] = Row(key, {"en": english, "zh": chinese})
        for name in (key, re.sub(r"^(?:the|an?) ", "", key, flags=re.IGNORECASE)):
            names["en"].setdefault(name.casefold(), key)
        names["zh"][str(row[1]).casefold()] = key
    pattern: dict[Language, re.Pattern[str]] = {
        "en": re.compile(rf"\b(?:{_alternatives(names['en'])})\b"),
        "zh": re.compile(_alternatives(names["zh"])),
    }
    return Table(rows, names, pattern)


def _alternatives(names: Mapping[str, str]) -> str:
    return "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))


def _read(name: str) -> str:
    return (resources.files("moss") / "data" / name).read_text(encoding="utf-8")
