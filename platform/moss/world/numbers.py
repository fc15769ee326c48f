"""Exact arithmetic: evaluate expressions, solve small equations, both over the rationals.

One recursive-descent reader serves both: an expression is a polynomial, a number is a constant
polynomial. A polynomial maps a monomial (a sorted string of variable letters, "" for the constant)
to its coefficient.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction

Polynomial = dict[str, Fraction]

_MAX_DIGITS = 12
_MAX_EXPONENT = 12
_TOKEN = re.compile(r"\d+(?:\.\d+)?|[xyz]|[-+*/^()]")
_SIGNS = str.maketrans({"×": "*", "÷": "/", "−": "-", "（": "(", "）": ")", "＋": "+", "＝": "="})
_SPACED_OPERATOR = re.compile(r"(?<=[\dxyz)]) *([-+*/^=]) *(?=[\dxyz(-])")
_NUMBER = r"\d+(?:\.\d+)?"
_EXPRESSION = re.compile(rf"[(]*{_NUMBER}(?:[)]*[-+*/^]-?[(]*{_NUMBER}[)]*)+")
_EQUATION = re.compile(r"(?<![A-Za-z=])[-0-9xyz+*/^().]+=-?[0-9xyz+*/^()-]*[0-9xyz)](?![A-Za-z])")


class NotArithmeticError(ValueError):
    """Text outside the small grammar: not an error of the user, only "not this kind"."""


def normalize(text: str) -> str:
    """ASCII operators, no spaces around them."""
    text = text.translate(_SIGNS).replace("**", "^")
    return _SPACED_OPERATOR.sub(r"\1", text)


def find_expressions(text: str) -> list[str]:
    """Arithmetic expressions in a text, in order; those that do not evaluate are left out."""
    found = []
    for match in _EXPRESSION.finditer(normalize(text)):
        try:
            evaluate(match.group())
        except NotArithmeticError:
            continue
        found.append(match.group())
    return found


def find_equations(text: str) -> list[str]:
    """Equations in x, y, z in a text, in order."""
    found = _EQUATION.findall(normalize(text))
    return [item for item in found if re.search("[xyz]", item)]


def evaluate(expression: str) -> Fraction:
    """Exact value.

    Raises:
        NotArithmeticError: outside the grammar, a division by zero, or beyond the bounds.
    """
    value = _Reader(expression).read()
    if value.keys() - {""}:
        raise NotArithmeticError(f"{expression!r} holds a variable")
    return value.get("", Fraction(0))


def show(value: Fraction) -> str:
    """A whole number, a short decimal, or a fraction."""
    if value.denominator == 1:
        return str(value.numerator)
    scaled = value * 10_000
    return (
        f"{float(value):g}" if scaled.denominator == 1 else f"{value.numerator}/{value.denominator}"
    )


def solve(equations: list[str]) -> str:
    """Solutions as `x = 5`, `x = 2, x = 3` or `x = 6, y = 4`; empty where there is none to state.

    Covers one linear or quadratic equation with rational roots and two linear ones in two unknowns.
    """
    try:
        polynomials = [_zero_form(equation) for equation in equations]
    except NotArithmeticError:
        return ""
    letters = sorted({letter for item in polynomials for monomial in item for letter in monomial})
    if len(polynomials) == 1 and len(letters) == 1:
        return ", ".join(
            f"{letters[0]} = {_show_root(root)}" for root in _roots(polynomials[0], letters[0])
        )
    if len(polynomials) == 2 and len(letters) == 2:
        return _solve_pair(polynomials, letters)
    return ""


def _zero_form(equation: str) -> Polynomial:
    left, right = equation.split("=", 1)
    return _add(_Reader(left).read(), _Reader(right).read(), sign=-1)


def _roots(polynomial: Polynomial, letter: str) -> list[Fraction]:
    if polynomial.keys() - {"", letter, letter * 2}:
        return []
    a, b, c = (polynomial.get(key, Fraction(0)) for key in (letter * 2, letter, ""))
    if a == 0:
        return [-c / b] if b else []
    square = b * b - 4 * a * c
    if square < 0:
        return []
    top, bottom = math.isqrt(square.numerator), math.isqrt(square.denominator)
    if top * top != square.numerator or bottom * bottom != square.denominator:
        return []
    root = Fraction(top, bottom)
    return sorted({(-b - root) / (2 * a), (-b + root) / (2 * a)})


def _solve_pair(polynomials: list[Polynomial], letters: list[str]) -> str:
    first, second = letters
    if any(item.keys() - {"", first, second} for item in polynomials):
        return ""
    (a, b, e), (c, d, f) = (
        (item.get(first, Fraction(0)), item.get(second, Fraction(0)), -item.get("", Fraction(0)))
        for item in polynomials
    )
    determinant = a * d - b * c
    if determinant == 0:
        return ""
    x, y = (e * d - b * f) / determinant, (a * f - e * c) / determinant
    return f"{first} = {_show_root(x)}, {second} = {_show_root(y)}"


def _show_root(value: Fraction) -> str:
    return str(value)


def _add(left: Polynomial, right: Polynomial, *, sign: int = 1) -> Polynomial:
    total = dict(left)
    for monomial, value in right.items():
        total[monomial] = total.get(monomial, Fraction(0)) + sign * value
    return {monomial: value for monomial, value in total.items() if value}


def _multiply(left: Polynomial, right: Polynomial) -> Polynomial:
    product: Polynomial = {}
    for a, x in left.items():
        for b, y in right.items():
            monomial = "".join(sorted(a + b))
            product[monomial] = product.get(monomial, Fraction(0)) + x * y
    return {monomial: value for monomial, value in product.items() if value}


class _Reader:
    """Recursive descent over one side: sum, product, power, atom."""

    def __init__(self, text: str) -> None:
        self._tokens = _TOKEN.findall(text)
        self._position = 0
        if "".join(self._tokens) != text.replace(" ", "") or len(text) > 80:
            raise NotArithmeticError(f"{text!r} is not an expression")

    def read(self) -> Polynomial:
        value = self._sum()
        if self._position != len(self._tokens):
            raise NotArithmeticError("text after the expression")
        return value

    def _peek(self) -> str:
        return self._tokens[self._position] if self._position < len(self._tokens) else ""

    def _next(self) -> str:
        token = self._peek()
        self._position += 1
        return token

    def _sum(self) -> Polynomial:
        value = self._product()
        while self._peek() in ("+", "-"):
            sign = 1 if self._next() == "+" else -1
            value = _add(value, self._product(), sign=sign)
        return value

    def _product(self) -> Polynomial:
        value = self._power()
        while (token := self._peek()) and (token in "*/(" or token in "xyz"):
            if token in "*/":
                self._next()
            right = self._power()
            if token != "/":
                value = _multiply(value, right)
                continue
            if right.keys() != {""}:
                raise NotArithmeticError("division by zero or by a variable")
            value = {monomial: item / right[""] for monomial, item in value.items()}
        return value

    def _power(self) -> Polynomial:
        if self._peek() == "-":
            self._next()
            return _multiply({"": Fraction(-1)}, self._power())
        base = self._atom()
        if self._peek() != "^":
            return base
        self._next()
        exponent = self._next()
        if not exponent.isdigit() or int(exponent) > _MAX_EXPONENT:
            raise NotArithmeticError(f"exponent {exponent!r}")
        value: Polynomial = {"": Fraction(1)}
        for _ in range(int(exponent)):
            value = _multiply(value, base)
        return value

    def _atom(self) -> Polynomial:
        token = self._next()
        if token == "(":
            value = self._sum()
            if self._next() != ")":
                raise NotArithmeticError("an open bracket")
            return value
        if token and token in "xyz":
            return {token: Fraction(1)}
        if token[:1].isdigit() and len(token) <= _MAX_DIGITS:
            number = Fraction(token)
            return {"": number} if number else {}
        raise NotArithmeticError(f"unexpected {token!r}")
