"""Right answers are recognized in replies, near misses are not."""

import pytest

from moss.chat import Command, ToolResult
from moss.evaluation.answers import error_class, holds_answer
from moss.world import Question, recognize


def question(text: str) -> Question:
    found = recognize(text)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("asked", "reply", "right"),
    [
        ("What is 37*43+5?", "37*43+5 = 1596.", True),
        ("What is 37*43+5?", "The result is 1596", True),
        ("What is 37*43+5?", "37*43+5 = 15960.", False),
        ("What is 37*43+5?", "37*43+5 = 11596.", False),
        ("What is 37*43+5?", "37*43+5 = 1596.5", False),
        ("What is 30+0*5?", "30+0*5 is a sum.", False),
        ("What is 12-40?", "12-40 = -28.", True),
        ("What is 68-40?", "It is -28.", False),
        ("Solve 3x+4=19.", "x = 5.", True),
        ("Solve 3x+4=19.", "x = 15.", False),
        ("解方程3x+4=19。", "x=5。", True),
        ("Solve x+y=14, x-y=8.", "x = 11, y = 3.", True),
        ("Solve x+y=14, x-y=8.", "x = 11, y = 4.", False),
        ("What is the capital of France?", "The capital of France is Paris.", True),
        ("What is the capital of France?", "The capital of France is London.", False),
    ],
)
def test_only_the_whole_answer_counts(asked: str, reply: str, right: bool) -> None:
    assert holds_answer(reply, question(asked)) is right


CALL = Command("Calculate", "37*43+5")


@pytest.mark.parametrize(
    ("wanted", "result", "expected"),
    [
        ([], "", "not invoked"),
        ([Command("Solve", "37*43+5")], "", "not invoked"),
        ([Command("Calculate", "37*43")], "'1591'", "wrong invocation"),
        ([Command("Calculate", "37 * 43 + 5")], "'No result.'", "poor result"),
        ([CALL], "'1596'", "poor integration"),
    ],
)
def test_a_wrong_turn_is_blamed_on_its_first_fault(
    wanted: list[Command], result: str, expected: str
) -> None:
    results = [ToolResult(wanted[0], result, ok=True)] if result else []
    found = error_class(
        question("What is 37*43+5?"),
        "calculator",
        wanted=wanted,
        expected=[CALL],
        results=results,
    )
    assert found == expected
