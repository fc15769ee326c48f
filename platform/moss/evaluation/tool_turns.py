"""Tool control (section 8.3, Fig. 10) and tool benefit (Fig. 11) from walked turns.

Each query is walked three times: its tool on; its tool off with the model's sections left as it
wrote them (false calls before enforcement); its tool off as the service does it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from moss.chat import Command, ToolResult
from moss.evaluation.answers import ERROR_CLASSES, ErrorClass, error_class, holds_answer
from moss.evaluation.prompts import ToolQuery
from moss.evaluation.statistics import Estimate, mcnemar_exact, wilson_interval
from moss.types import API_NAMES, ToolName

Arm = Literal["on", "off_unenforced", "off"]
ARMS: tuple[Arm, ...] = ("on", "off_unenforced", "off")


@dataclass(frozen=True, slots=True)
class ToolTurn:
    """One walked turn."""

    query: ToolQuery
    arm: Arm
    wanted: tuple[Command, ...]
    """Commands that the model wrote and that parse, before any was dropped."""
    executed: tuple[ToolResult, ...]
    """Results of the calls that ran."""
    reply: str
    failure: str = ""
    """Why the turn has no reply; such a turn counts as no call and a wrong answer."""

    @property
    def called(self) -> bool:
        """Whether the model wrote a call to the query's tool: the right API, parsed."""
        api = API_NAMES[self.query.tool]
        return any(command.api == api for command in self.wanted)

    @property
    def ran(self) -> bool:
        """Whether the query's tool really ran."""
        api = API_NAMES[self.query.tool]
        return any(result.command.api == api for result in self.executed)

    @property
    def right(self) -> bool:
        """Whether the reply holds the answer."""
        return holds_answer(self.reply, self.query.question)


@dataclass(frozen=True, slots=True)
class ToolControl:
    """How one tool obeys its switch."""

    recall: Estimate
    """Share of queries with a call when the tool is on."""
    false_calls: Estimate
    """Share of queries with a call when it is off, before enforcement."""
    false_calls_enforced: Estimate
    """Share of queries for which the switched-off tool ran in the service."""


@dataclass(frozen=True, slots=True)
class ToolBenefit:
    """Right answers with and without one tool, on the same questions."""

    with_tool: Estimate
    without_tool: Estimate
    num_only_with: int
    num_only_without: int
    p_value: float
    """Exact McNemar test of the two shares being equal."""
    errors: dict[ErrorClass, int]
    """Wrong turns with the tool on, by where they went wrong."""


def of_arm(turns: Sequence[ToolTurn], tool: ToolName, arm: Arm) -> list[ToolTurn]:
    """Turns of one tool and arm, by query id."""
    chosen = [turn for turn in turns if turn.query.tool == tool and turn.arm == arm]
    return sorted(chosen, key=lambda turn: turn.query.id)


def tool_control(turns: Sequence[ToolTurn], tool: ToolName) -> ToolControl:
    """Recall and false calls of one tool."""
    on, raw, off = (of_arm(turns, tool, arm) for arm in ARMS)
    return ToolControl(
        recall=wilson_interval(sum(turn.called for turn in on), len(on)),
        false_calls=wilson_interval(sum(turn.called for turn in raw), len(raw)),
        false_calls_enforced=wilson_interval(sum(turn.ran for turn in off), len(off)),
    )


def tool_benefit(
    turns: Sequence[ToolTurn], tool: ToolName, plans: dict[str, tuple[Command, ...]]
) -> ToolBenefit:
    """Right answers of one tool's queries with it on and with it off.

    Args:
        plans: query id -> the commands that a right plan holds.
    """
    on, off = of_arm(turns, tool, "on"), of_arm(turns, tool, "off")
    pairs = [(mine.right, other.right) for mine, other in zip(on, off, strict=True)]
    num_only_with = sum(mine and not other for mine, other in pairs)
    num_only_without = sum(other and not mine for mine, other in pairs)
    errors = Counter(
        error_class(
            turn.query.question,
            tool,
            wanted=turn.wanted,
            expected=plans[turn.query.id],
            results=turn.executed,
        )
        for turn in on
        if not turn.right
    )
    return ToolBenefit(
        with_tool=wilson_interval(sum(mine for mine, _ in pairs), len(pairs)),
        without_tool=wilson_interval(sum(other for _, other in pairs), len(pairs)),
        num_only_with=num_only_with,
        num_only_without=num_only_without,
        p_value=mcnemar_exact(num_only_with, num_only_without),
        errors={name: errors[name] for name in ERROR_CLASSES},
    )
