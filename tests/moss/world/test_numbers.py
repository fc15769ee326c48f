from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moss.world.numbers import (
    NotArithmeticError,
    evaluate,
    find_equations,
    find_expressions,
    show,
    solve,
)

TERMS = st.lists(st.tuples(st.sampled_from("+-*"), st.integers(0, 999)), min_size=1, max_size=4)


@given(first=st.integers(0, 999), rest=TERMS)
def test_expressions_evaluate_as_python_does(first: int, rest: list[tuple[str, int]]) -> None:
    expression = str(first) + "".join(f"{operator}{number}" for operator, number in rest)
    assert evaluate(expression) == eval(expression)


@given(a=st.integers(1, 50), root=st.integers(-50, 50), b=st.integers(0, 99))
def test_linear_equations_give_their_root(a: int, root: int, b: int) -> None:
    assert solve([f"{a}x+{b}={a * root + b}"]) == f"x = {root}"


@given(low=st.integers(-9, 9), high=st.integers(-9, 9))
def test_quadratics_give_their_rational_roots_in_order(low: int, high: int) -> None:
    roots = sorted({low, high})
    equation = f"x^2-({low + high})x+({low * high})=0"
    assert solve([equation]) == ", ".join(f"x = {root}" for root in roots)


@given(x=st.integers(-20, 20), y=st.integers(-20, 20))
def test_pairs_of_linear_equations_give_both_unknowns(x: int, y: int) -> None:
    assert solve([f"x+y={x + y}", f"x-y={x - y}"]) == f"x = {x}, y = {y}"


@pytest.mark.parametrize("equation", ["x^2+1=0", "x^2-2=0", "x=x", "x^3=8", "0x=1"])
def test_what_has_no_rational_answer_is_left_unsolved(equation: str) -> None:
    assert solve([equation]) == ""


@pytest.mark.parametrize("text", ["", "1+", "(1+2", "1/0", "2^99", "x+1", "1" * 20 + "+1"])
def test_text_outside_the_grammar_is_refused(text: str) -> None:
    with pytest.raises(NotArithmeticError):
        evaluate(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("What is 37 * 43 + 5?", ["37*43+5"]),
        ("（12＋7）×2等于多少？", ["(12+7)*2"]),
        ("I paid 64+27, then 12*9.", ["64+27", "12*9"]),
        ("I have 3 dogs and 4 cats.", []),
    ],
)
def test_expressions_are_found_in_running_text(text: str, found: list[str]) -> None:
    assert find_expressions(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Solve 3x + 4 = 19.", ["3x+4=19"]),
        ("解方程x^2-5x+6=0。", ["x^2-5x+6=0"]),
        ("Find x and y if x+y=10, x-y=2.", ["x+y=10", "x-y=2"]),
        ("Is 3+4=7 right?", []),
    ],
)
def test_equations_are_found_in_running_text(text: str, found: list[str]) -> None:
    assert find_equations(text) == found


def test_numbers_show_as_people_write_them() -> None:
    assert [show(Fraction(n, d)) for n, d in ((6, 3), (7, 2), (1, 3))] == ["2", "3.5", "1/3"]
