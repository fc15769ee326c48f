"""A function as a reward: checked before it is used, and never trusted with its answer."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from moss.errors import ConfigError
from moss.rewards.base import RewardFailure, RewardRow
from moss.rewards.function import FunctionScorer
from tests.moss.rewards.rows import row

HERE = "tests.moss.rewards.test_function"
ROWS = [row(0, "one"), row(1, "three"), row(2, "")]


def length(rows: Sequence[RewardRow]) -> list[object]:
    return [len(item.reply) if item.reply else RewardFailure("empty reply") for item in rows]


def strange(rows: Sequence[RewardRow]) -> list[object]:
    return [float("nan"), "2", 3.5]


def short(rows: Sequence[RewardRow]) -> list[float]:
    return [1.0]


def broken(rows: Sequence[RewardRow]) -> list[float]:
    raise KeyError("no such prompt")


def two_arguments(rows: Sequence[RewardRow], more: int) -> list[float]:
    return [1.0] * len(rows)


async def later(rows: Sequence[RewardRow]) -> list[float]:
    return [1.0] * len(rows)


NUMBER = 5


def test_numbers_and_failures_are_taken_row_by_row() -> None:
    assert FunctionScorer(f"{HERE}:length").score_rows(ROWS) == [
        3.0,
        5.0,
        RewardFailure("empty reply"),
    ]
    assert FunctionScorer(f"{HERE}:strange").score_rows(ROWS) == [
        RewardFailure(f"{HERE}:strange gave nan"),
        RewardFailure(f"{HERE}:strange gave '2', expected a number"),
        3.5,
    ]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("short", "gave 1 scores for 3 rows"),
        ("broken", "raised KeyError: 'no such prompt'"),
    ],
)
def test_a_wrong_count_and_an_exception_fail_all_rows_with_the_cause(
    name: str, reason: str
) -> None:
    outcomes = FunctionScorer(f"{HERE}:{name}").score_rows(ROWS)
    assert outcomes == [RewardFailure(f"{HERE}:{name} {reason}")] * 3


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("no_such_module:f", "does not import: ModuleNotFoundError"),
        (f"{HERE}:absent", "does not import: AttributeError"),
        (f"{HERE}:NUMBER", "is int, expected a plain function"),
        (f"{HERE}:two_arguments", "cannot be called with one argument.*'more'"),
        (f"{HERE}:later", "expected a plain function"),
    ],
)
def test_what_cannot_be_called_with_rows_is_refused_before_anything_starts(
    path: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        FunctionScorer(path)
