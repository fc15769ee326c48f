"""New prompts like the examples (Self-Instruct, paper sections 5.1 and 8.1)."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Final

from moss.types import API_NAMES, Language
from moss.world import Kind, Question, question_from, recognize, sample_question
from moss.world.sampling import sample_expression
from moss.world.toolplans import TOOL_OF_KIND, needed_tool

_EXAMPLE = re.compile(r"^\[Question \d+\]:[ \t]*(.+)$", re.MULTILINE)
_CUT_SHARE = 0.125
"""Share of calls whose last prompt breaks off, as with a model at its token limit."""
_TWO_PART_SHARE = 0.05
_FALLBACK_KINDS: Final[tuple[Kind, ...]] = ("arithmetic", "fact", "writing", "chat")


def extend_prompts(
    examples: str, count: int, language: Language, rng: random.Random
) -> tuple[str, bool]:
    """A numbered continuation of "[Question 1]:" and whether it breaks off at its end.

    New prompts are of the kinds that the examples show, in their shares. Harmful examples are not
    extended, as a well-behaved model would not.
    """
    kinds = [kind for kind in _kinds_shown(examples) if kind != "harmful"] or _FALLBACK_KINDS
    return _numbered(count, rng, lambda: sample_question(rng, rng.choice(kinds), language).text)


def extend_tool_queries(
    tool: str, examples: str, count: int, language: Language, rng: random.Random
) -> tuple[str, bool]:
    """New queries that need the tool; see `extend_prompts`."""
    shown = [kind for kind in _kinds_shown(examples) if kind in TOOL_OF_KIND]
    kind = _kind_of_tool(tool) or (shown[0] if shown else "arithmetic")
    return _numbered(count, rng, lambda: _difficult(kind, language, rng).text)


def _kinds_shown(examples: str) -> list[Kind]:
    questions = [recognize(text.strip()) for text in _EXAMPLE.findall(examples)]
    return [question.kind for question in questions if question is not None]


def _kind_of_tool(name: str) -> Kind | None:
    wanted = name.strip().casefold()
    for kind, tool in TOOL_OF_KIND.items():
        if wanted in (tool, tool.replace("_", " "), API_NAMES[tool].casefold()):
            return kind
    return None


def _difficult(kind: Kind, language: Language, rng: random.Random) -> Question:
    if kind == "arithmetic" and rng.random() < _TWO_PART_SHARE:
        expressions = f"{sample_expression(rng)};{sample_expression(rng)}"
        return question_from(kind, {"expression": expressions}, language, rng)
    while True:
        question = sample_question(rng, kind, language)
        if needed_tool(question) is not None:
            return question


def _numbered(count: int, rng: random.Random, make: Callable[[], str]) -> tuple[str, bool]:
    texts = list(dict.fromkeys(make() for _ in range(count)))
    lines = [f" {texts[0]}"]
    lines += [f"[Question {number}]: {text}" for number, text in enumerate(texts[1:], 2)]
    is_cut = len(lines) > 1 and rng.random() < _CUT_SHARE
    if is_cut:
        lines[-1] = lines[-1][: len(lines[-1]) - max(2, len(texts[-1]) // 2)]
    return "\n".join(lines), is_cut
