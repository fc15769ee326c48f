"""Whether a reply holds the right answer of a question, and where a wrong tool turn went wrong."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Literal

from moss.chat import Command, ToolResult
from moss.types import API_NAMES, ToolName
from moss.world import Question

ErrorClass = Literal["not invoked", "wrong invocation", "poor result", "poor integration"]
ERROR_CLASSES: tuple[ErrorClass, ...] = (
    "not invoked",
    "wrong invocation",
    "poor result",
    "poor integration",
)
"""Stages at which a tool turn can fail (paper section 8.3)."""

_SPACE = re.compile(r"\s+")


def holds_answer(text: str, question: Question) -> bool:
    """Whether a text says every part of the answer, numbers as whole numbers.

    The question's own expression is taken out first: repeating "30+0" does not answer 30.
    """
    said = _compact(text)
    for stated in ("expression", "equation"):
        for part in question.payload.get(stated, "").split(";"):
            said = said.replace(_compact(part), " ") if part else said
    parts = [_compact(part) for part in question.answer.split(",")]
    return bool(question.answer) and all(_part_pattern(part).search(said) for part in parts)


def error_class(
    question: Question,
    tool: ToolName,
    *,
    wanted: Sequence[Command],
    expected: Sequence[Command],
    results: Sequence[ToolResult],
) -> ErrorClass:
    """Why a turn with the tool switched on did not answer right.

    Args:
        wanted: commands that the model wrote.
        expected: commands that the teacher's plan holds.
        results: what the tools answered.
    """
    api = API_NAMES[tool]
    mine = [command for command in wanted if command.api == api]
    if not mine:
        return "not invoked"
    body = "\n".join(result.text for result in results if result.command.api == api)
    if holds_answer(body, question):
        return "poor integration"
    arguments = {_compact(command.argument) for command in expected}
    right = any(_compact(command.argument) in arguments for command in mine)
    return "poor result" if right else "wrong invocation"


def _compact(text: str) -> str:
    return _SPACE.sub("", unicodedata.normalize("NFKC", text).casefold())


def _part_pattern(part: str) -> re.Pattern[str]:
    before = r"(?<![\d.\-])" if part[:1].isdigit() else ""
    after = r"(?!\d|\.\d)" if part[-1:].isdigit() else ""
    return re.compile(before + re.escape(part) + after)
