"""Final answers are read exactly, whatever stands around them."""

from __future__ import annotations

from fractions import Fraction

import pytest

from moss.rewards.answers import agree, final_number, final_solution, read_reference


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("12+7 = 19.", Fraction(19)),
        ("The answer is 1,234.50 dollars.", Fraction("1234.5")),
        ("所以答案是19。", Fraction(19)),
        ("结果为：−３．５", Fraction("-3.5")),
        ("It is 5-3", Fraction(3)),
        ("x = -3", Fraction(-3)),
        ("that makes 10 / 4", Fraction(5, 2)),
        (r"so \boxed{7} apples, as 3 + 4 shows", Fraction(7)),
        ("It is 42 <sup><|1|></sup>", Fraction(42)),
        ("about 1.5e3", Fraction(1500)),
        ("half, or .5", Fraction(1, 2)),
        ("50%", Fraction(50)),
        ("1/0", None),
        ("H2O", None),
        ("nothing", None),
        ("9" * 200, None),
    ],
)
def test_the_last_number_of_a_text(text: str, number: Fraction | None) -> None:
    assert final_number(text) == number


def test_a_huge_exponent_is_not_computed() -> None:
    assert final_number("1e999999999") == Fraction(1)
    assert final_number("1e999") == Fraction(10) ** 999


@pytest.mark.parametrize(
    ("text", "solution"),
    [
        ("x = 5/36\ny = 25/36", {"x": {Fraction(5, 36)}, "y": {Fraction(25, 36)}}),
        ("2x = 4, so x = 4/2 = 2.", {"x": {Fraction(2)}}),
        ("x^2 = 9 gives x = 3 or x = -3", {"x": {Fraction(3), Fraction(-3)}}),
        ("x = 3 or -3", {"x": {Fraction(3), Fraction(-3)}}),
        ("解得 x=2，y=3。", {"x": {Fraction(2)}, "y": {Fraction(3)}}),
        ("解得x = 2", {"x": {Fraction(2)}}),
        ("x = sqrt(2), y = -1/2", {"x": {"sqrt(2)"}, "y": {Fraction(-1, 2)}}),
        ("a = b = 4", {"a": {Fraction(4)}, "b": {Fraction(4)}}),
        ("2 - x = 1", {}),
        ("the value x = 2 is right", {"x": {Fraction(2)}}),
        ("sin(x) = 1", {}),
    ],
)
def test_what_a_text_sets_its_unknowns_to(
    text: str, solution: dict[str, set[Fraction | str]]
) -> None:
    assert final_solution(text) == solution


@pytest.mark.parametrize(
    ("reference", "text", "agrees"),
    [
        ("19", "12+7 = 19.0", True),
        ("19", "12+7 = 20", False),
        ("19", "I do not know.", False),
        ("0.5", "1/2", True),
        ("x = 2, y = 3", "y = 3 and x = 2", True),
        ("x = 2, y = 3", "x = 2", False),
        ("x = 3, x = -3", "x = 3", False),
        ("x = 3", "x = 3 or x = -3", False),
        ("x = 3, x = -3", "x = -3 or x = 3", True),
        ("x = sqrt(2)", "x = Sqrt( 2 )", True),
    ],
)
def test_replies_agree_with_references(reference: str, text: str, agrees: bool) -> None:
    answer = read_reference(reference)
    assert answer is not None
    assert agree(answer, text, relative_tolerance=0.0) is agrees


def test_a_tolerance_is_relative_and_zero_is_exact() -> None:
    answer = read_reference("3.75")
    assert answer is not None
    assert not agree(answer, "3.749999", relative_tolerance=0.0)
    assert agree(answer, "3.749999", relative_tolerance=1e-6)
    assert not agree(answer, "3.7", relative_tolerance=1e-6)


@pytest.mark.parametrize("text", ["Paris", "12 apples", "x", ""])
def test_what_is_neither_number_nor_solution_is_no_reference(text: str) -> None:
    assert read_reference(text) is None
