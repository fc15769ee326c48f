"""The verifiable reward: replies and commands against reference answers, by the real tools."""

from __future__ import annotations

from dataclasses import replace

import pytest

from moss.chat import Command
from moss.config.rewards import ToolJudgeReward
from moss.rewards.base import Outcome, RewardFailure, RewardRow
from moss.rewards.tool_judge import ToolJudge, last_command
from tests.moss.rewards.rows import row


def judge(rows: list[RewardRow], **changes: object) -> list[Outcome]:
    scorer = ToolJudge(ToolJudgeReward.model_validate({"kind": "tool_judge", **changes}))
    try:
        return scorer.score_rows(rows)
    finally:
        scorer.close()


def asked(reference: str | None, reply: str) -> RewardRow:
    return row(0, reply, {"answer": reference})


def calling(reference: str, commands: str) -> RewardRow:
    """A response of a tool rollout that began with the Commands section."""
    response = f" {commands}<eoc>\n<|Results|>: None<eor>\n<|MOSS|>: Done.<eom>\n"
    written = asked(reference, "Done.")
    return replace(written, prompt="<|Commands|>:", response=response)


def test_replies_are_right_or_wrong_in_the_configured_units() -> None:
    rows = [asked("19", "It is 19."), asked("19", "It is 20."), asked("x = 2", "So x = 2.")]
    assert judge(rows) == [1.0, 0.0, 1.0]
    assert judge(rows, right_score=2.0, wrong_score=-1.0) == [2.0, -1.0, 2.0]


def test_a_row_that_cannot_be_judged_fails_instead_of_being_wrong() -> None:
    assert judge([asked(None, "19"), asked(" ", "19"), asked("Paris", "Paris")]) == [
        RewardFailure("the prompt has no reference answer in column 'answer'"),
        RewardFailure("the prompt has no reference answer in column 'answer'"),
        RewardFailure("reference answer 'Paris' is neither number nor solution"),
    ]


def test_the_last_command_is_found_wherever_the_response_begins() -> None:
    assert last_command(calling("1", 'Search("a"), Calculate("1+2")')) == Command(
        "Calculate", "1+2"
    )
    thinking = replace(
        row(),
        prompt="<|Inner Thoughts|>:",
        response=' I count.<eot>\n<|Commands|>: Calculate("1<\\eoc>")<eoc>\n<|MOSS|>: 3<eom>\n',
    )
    assert last_command(thinking) == Command("Calculate", "1<eoc>")
    assert last_command(calling("1", "None")) is None
    assert last_command(calling("1", "Calculate(1+2")) is None
    assert last_command(row()) is None


@pytest.mark.slow
def test_commands_are_judged_by_what_the_tools_answer() -> None:
    outcomes = judge(
        [
            calling("19", 'Calculate("12+7")'),
            calling("19", 'Calculate("12+8")'),
            calling("x = 5/36, y = 25/36", 'Solve("5x = y, x + y = 5/6")'),
            calling("19", 'Calculate("import os")'),
            calling("19", 'Search("19")'),
            calling("19", "None"),
        ],
        judged="commands",
    )
    assert outcomes == [1.0, 0.0, 1.0, 0.0, 0.0, 0.0]


def test_commands_not_judged_in_time_fail() -> None:
    (outcome,) = judge([calling("2", 'Solve("x = 2")')], judged="commands", deadline_s=0.01)
    assert outcome == RewardFailure("not judged within deadline_s=0.01")
