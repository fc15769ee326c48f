"""Five-section conversations with tool calls, step by step (paper section 8.1).

1. seed queries (data), 2. extension by Self-Instruct (`moss.selfinstruct`) and the difficulty
filter, 3. inner thoughts and commands, few-shot, 4. the deployed tools run the commands, 5. the
final reply, zero-shot. Steps 3 to 5 repeat for follow-up queries that the teacher writes directly
from the history, without examples. Here is what each step parses and checks; the steps themselves
are in `moss.tool_recipes`.

*Positive* conversations have the needed tool on, *disabled* ones have it off (and all sections but
the reply stay free of calls), *negative* ones are conventional conversations whose switches were
turned on for tools that their prompts do not need, text unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from moss.chat import Command, ToolResult, Turn, format_results, parse_commands
from moss.errors import ChatFormatError, DataError, TeacherResponseError
from moss.recipes import Row, stable_unit
from moss.seeds import ToolDemonstration
from moss.types import API_NAMES, TOOL_NAMES, TOOL_OF_API, ToolName

Kind = Literal["positive", "disabled", "negative"]

_THOUGHTS = re.compile(
    r"^[ \t>*#]*(?:inner[ \t]+thoughts?|内心想法|想法)\**[ \t]*[:：]\**",
    re.IGNORECASE | re.MULTILINE,
)
_COMMANDS = re.compile(
    r"^[ \t>*#]*(?:commands?|命令|指令)\**[ \t]*[:：]\**", re.IGNORECASE | re.MULTILINE
)
_NEXT_QUERY = re.compile(r"^[ \t]*query[ \t]*[:：]", re.IGNORECASE | re.MULTILINE)
_COMMAND_LINE = re.compile(r"\s*(?:[-*•][ \t]+|\d+[.)][ \t]+)?`?(?=[A-Za-z_]\w*\()")
_NO_COMMANDS = frozenset({"none", "n/a", "null", "无", "没有"})
_CITATION = re.compile(r"<sup><\|(\d+)\|></sup>")
_PAGE = re.compile(r"^<\|(\d+)\|>", re.MULTILINE)


class RunsTools(Protocol):
    """The deployed tools: all commands of one turn in, their results out, in order."""

    async def run(self, commands: Sequence[Command]) -> tuple[ToolResult, ...]:
        """Run the commands; a failed one has `ok=False`, it never raises."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Inner thoughts and the commands they lead to."""

    thoughts: str | None
    commands: tuple[Command, ...]


def parse_plan(text: str) -> Plan:
    """Inner thoughts and commands in a planner's answer, which continues "Inner thoughts:".

    A preface before the first label is dropped, as is what follows the commands.

    Raises:
        TeacherResponseError: no Commands line, a label twice, or commands outside the grammar.
    """
    plan = _NEXT_QUERY.split(text, maxsplit=1)[0]
    thought_labels, command_labels = list(_THOUGHTS.finditer(plan)), list(_COMMANDS.finditer(plan))
    if len(thought_labels) > 1 or len(command_labels) > 1:
        raise TeacherResponseError(f"a label stands twice in the plan {text[:120]!r}")
    if not command_labels:
        raise TeacherResponseError(f"no 'Commands:' line in the plan {text[:120]!r}")
    (label,) = command_labels
    start = thought_labels[0].end() if thought_labels else 0
    if start > label.start():
        raise TeacherResponseError(f"commands stand before the thoughts in the plan {text[:120]!r}")
    thoughts = " ".join(plan[start : label.start()].split()) or None
    return Plan(thoughts, _parse_listed(plan[label.end() :]))


def _parse_listed(text: str) -> tuple[Command, ...]:
    """Commands on one line, or one to a line until a line is none."""
    lines = [line.strip() for line in text.strip().split("\n")]
    first = lines[0].strip("` \t") if lines else ""
    if not first or first.casefold().rstrip(".。") in _NO_COMMANDS:
        return ()
    listed: list[str] = []
    for line in lines:
        head = _COMMAND_LINE.match(line)
        if listed and head is None:
            break
        listed.append((line[head.end() :] if head else line).strip("` \t,"))
    try:
        commands = parse_commands(", ".join(listed))
        for command in commands:
            command.argument.encode()
    except (ChatFormatError, UnicodeEncodeError) as error:
        raise TeacherResponseError(f"commands do not parse: {error}") from error
    return commands


def check_plan(plan: Plan, enabled: frozenset[ToolName]) -> None:
    """Raise TeacherResponseError if a command names an unknown tool or one that is off."""
    for command in plan.commands:
        tool = TOOL_OF_API.get(command.api)
        if tool is None:
            raise TeacherResponseError(f"command {command} names no tool of ours")
        if tool not in enabled:
            raise TeacherResponseError(f"command {command} calls {tool}, which is switched off")


def check_citations(reply: str, results: Sequence[ToolResult]) -> None:
    """Raise TeacherResponseError if the reply cites a page that is not among the results."""
    pages = {page for result in results for page in _PAGE.findall(result.text)}
    if missing := sorted(set(_CITATION.findall(reply)) - pages):
        raise TeacherResponseError(
            f"the reply cites {', '.join(missing)}, the results hold {sorted(pages) or 'no page'}"
        )


def choose_switches(
    needed: frozenset[ToolName], *, kind: Kind, probability: float, seed: int, row_id: str
) -> frozenset[ToolName]:
    """Tools that are on. Needed ones by `kind`; every other with `probability`.

    A negative example has at least one tool on.
    """
    others = [tool for tool in TOOL_NAMES if tool not in needed]
    draws = {tool: stable_unit(seed, "switch", row_id, tool) for tool in others}
    chosen = {tool for tool in others if draws[tool] < probability}
    if kind == "positive":
        chosen |= needed
    elif kind == "negative" and not chosen and others:
        chosen.add(min(others, key=lambda tool: draws[tool]))
    return frozenset(chosen)


def render_switches(enabled: frozenset[ToolName]) -> str:
    """Which APIs a planner may use, one line per tool."""
    return "\n".join(
        f"- {API_NAMES[tool]}: {'enabled' if tool in enabled else 'disabled'}"
        for tool in TOOL_NAMES
    )


def render_demonstrations(demonstrations: Sequence[ToolDemonstration]) -> str:
    """Few-shot block of step 3."""
    return "\n\n".join(
        f"Query: {item.query}\nInner thoughts: {item.thoughts}\nCommands: {item.commands}"
        for item in demonstrations
    )


def render_tool_history(turns: Sequence[Turn]) -> str:
    """Earlier turns as plain text."""
    return "\n".join(f"[Human]: {turn.human}\n[MOSS]: {turn.moss}" for turn in turns)


def check_kind(row: Row, turns: Sequence[Turn]) -> None:
    """Raise DataError if a positive conversation's first turn does not use its tool well."""
    if row["kind"] != "positive":
        return
    used = {TOOL_OF_API.get(command.api) for command in turns[0].commands}
    if row["tool"] not in used:
        raise DataError(f"the plan does not call {row['tool']}, which the query was made for")
    if not all(result.ok for result in turns[0].results):
        raise DataError("a tool gave no result: " + format_results(turns[0].results))
