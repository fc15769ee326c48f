"""A verifiable reward: whether the answer is the reference answer of the prompt.

The reference is a number (`19`, `5/36`, `1,234.5`) or a solution (`x = 2, y = 3`; an unknown with
several values has several assignments). Numbers are compared as exact fractions, or within
`relative_tolerance`.

`judged: reply` takes the reply's final number, or that of its last boxed expression; for a
solution, everything that the reply sets the reference's unknowns equal to, which must be the
reference's values and no others. A reply without an answer is a wrong one, one cut at its length
limit is judged by what it holds.

`judged: commands` runs the last command of the response through the calculator or equation solver
and compares the result in the same way. No command, one that does not parse, or one to which the
tool has no result, is a wrong answer.

A row fails where it cannot be judged: no reference, a reference of neither form, a tool that broke
or a judgment that took longer than `deadline_s`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from moss.chat import END_MARKERS, HEADERS, Command, parse_commands, unescape
from moss.config.rewards import ToolJudgeReward
from moss.config.tools import ToolsConfig
from moss.errors import ChatFormatError
from moss.rewards.answers import Answer, agree, read_reference
from moss.rewards.base import Outcome, RewardBatch, RewardFailure, RewardRow
from moss.tools.registry import UNAVAILABLE
from moss.tools.runner import ToolRunner, ToolTurn

_COMMANDS: Final = re.compile(
    re.escape(HEADERS["commands"]) + r"((?:(?!<\|).)*?)" + re.escape(END_MARKERS["commands"]),
    re.DOTALL,
)
_TOOLS: Final = ToolsConfig(enabled=("calculator", "equation_solver"))
_CONCURRENCY: Final = 2
"""Turns at once, as many as calculator and solver have workers."""


class ToolJudge:
    """Judges replies, or commands by their results."""

    def __init__(self, config: ToolJudgeReward) -> None:
        self._config = config
        self._runner = (
            ToolRunner(_TOOLS, concurrency=_CONCURRENCY) if config.judged == "commands" else None
        )

    def score(self, batch: RewardBatch) -> list[Outcome]:
        """See `moss.rewards.base.Reward`."""
        return self.score_rows(batch.rows())

    def score_rows(self, rows: Sequence[RewardRow]) -> list[Outcome]:
        """`right_score`, `wrong_score` or a failure for each row."""
        texts = [row.reply for row in rows] if self._runner is None else self._results(rows)
        return [self._judge(row, text) for row, text in zip(rows, texts, strict=True)]

    def close(self) -> None:
        """End the tools."""
        if self._runner is not None:
            self._runner.close()

    def _judge(self, row: RewardRow, text: str | RewardFailure) -> Outcome:
        reference = self._reference(row)
        if isinstance(reference, RewardFailure):
            return reference
        if isinstance(text, RewardFailure):
            return text
        tolerance = self._config.relative_tolerance
        is_right = agree(reference, text, relative_tolerance=tolerance)
        return self._config.right_score if is_right else self._config.wrong_score

    def _reference(self, row: RewardRow) -> Answer | RewardFailure:
        column = self._config.reference_column
        text = row.columns.get(column)
        if text is None or not text.strip():
            return RewardFailure(f"the prompt has no reference answer in column {column!r}")
        answer = read_reference(text)
        if answer is None:
            return RewardFailure(f"reference answer {text!r:.80} is neither number nor solution")
        return answer

    def _results(self, rows: Sequence[RewardRow]) -> list[str | RewardFailure]:
        """What the tool answers to the last command of each row; empty where there is none."""
        assert self._runner is not None, "made for judging commands"
        texts: list[str | RewardFailure] = [""] * len(rows)
        commands = {
            row: command for row, item in enumerate(rows) if (command := last_command(item))
        }
        turns = [ToolTurn((item,), frozenset(_TOOLS.enabled)) for item in commands.values()]
        finished = self._runner.run(turns, timeout_s=self._config.deadline_s)
        for row, calls in zip(commands, finished, strict=True):
            if calls is None:
                limit_s = self._config.deadline_s
                texts[row] = RewardFailure(f"not judged within deadline_s={limit_s:g}")
                continue
            (call,) = calls
            if UNAVAILABLE in call.output.flags:
                texts[row] = RewardFailure(call.output.reason)
            elif call.output.ok:
                texts[row] = call.output.text
        return texts


def last_command(row: RewardRow) -> Command | None:
    """The last command of the last Commands section that the policy wrote; None without one."""
    # The response may begin inside the section, whose header then ends the prompt.
    opened = HEADERS["commands"] if row.prompt.endswith(HEADERS["commands"]) else ""
    sections = _COMMANDS.findall(opened + row.response)
    try:
        commands = parse_commands(unescape(sections[-1].removeprefix(" "))) if sections else ()
    except ChatFormatError:
        return None
    return commands[-1] if commands else None
