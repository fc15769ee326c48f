"""What to call for a question, given the tools that are on: one short thought, then commands."""

from __future__ import annotations

import random
import re
from typing import Final

from moss.chat import Command
from moss.types import API_NAMES, ToolName
from moss.world.question import Kind, Question
from moss.world.slots import describe, fill
from moss.world.tables import lines, named

TOOL_OF_KIND: Final[dict[Kind, ToolName]] = {
    "arithmetic": "calculator",
    "equation": "equation_solver",
    "fact": "web_search",
    "image": "text_to_image",
}
_EASY = re.compile(r"\d[-+]\d")


def needed_tool(question: Question) -> ToolName | None:
    """The tool that helps with a question; None where none does or it is easy without."""
    return None if is_easy(question) else TOOL_OF_KIND.get(question.kind)


def is_easy(question: Question) -> bool:
    """Whether a tool would be out of place: sums of two single digits (paper section 8.1)."""
    if question.kind != "arithmetic":
        return False
    return all(_EASY.fullmatch(item) for item in question.payload["expression"].split(";"))


def plan_tools(
    question: Question, enabled: frozenset[ToolName], rng: random.Random
) -> tuple[str, tuple[Command, ...]]:
    """Inner thought and commands; no commands where the tool is off, or none is needed."""
    language = question.language
    tool = TOOL_OF_KIND.get(question.kind)
    if tool is None:
        return rng.choice(lines(language, "tools", "none")), ()
    if is_easy(question):
        return rng.choice(lines(language, "tools", "easy")), ()
    if tool not in enabled:
        name = named(language, "tools", "names")[tool]
        return rng.choice(lines(language, "tools", "switched_off")).format(tool=name), ()
    thought = rng.choice(lines(language, question.kind, "thought"))
    return thought, tuple(Command(API_NAMES[tool], item) for item in _arguments(question))


def _arguments(question: Question) -> list[str]:
    if question.kind == "arithmetic":
        return question.payload["expression"].split(";")
    if question.kind == "equation":
        return [", ".join(question.payload["equation"].split(";"))]
    if question.kind == "image":  # the image model reads English (paper section 8.2)
        return [describe(question.payload, "en")]
    slots = fill("fact", question.payload, question.language)
    return [lines(question.language, "fact", "query")[0].format_map(slots)]
