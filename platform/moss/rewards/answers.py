"""Answers as exact values: the number or solution that a text ends with.

Nothing that a model wrote is evaluated: numbers become fractions, and values that are not plain
numbers (`sqrt(2)`, `pi/6+2*n*pi`) are compared letter by letter, blanks and case aside.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

Value = Fraction | str

_MAX_NUMBER_CHARS: Final = 100
_NUMBER = re.compile(
    r"(?<![A-Za-z0-9_.])([-+]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|[-+]?\.\d+)"
    r"(?:[eE]([-+]?\d{1,3})(?![\d.]))?(?:\s*/\s*(\d+(?:\.\d+)?))?"
)
_BOXED = re.compile(r"\\boxed\s*\{([^{}]*)\}")
_CITATION = re.compile(r"<sup>\s*<\|\d+\|>\s*</sup>|<\|\d+\|>")
_CLAUSE_END = re.compile(r",(?!\d{3}(?!\d))|[;\n。；、]|\.(?!\d)|\b(?:and|or)\b|[和或]")
_NAME_AT_END = re.compile(r"([A-Za-z0-9_^*/+\-().]+)\s*\Z")
_VALUE = re.compile(r"\s*((?:[-+*/^(),.\d\s√]|pi|sqrt|[A-Za-z](?![A-Za-z]))+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a reference says, or a reply: a number, or values of unknowns."""

    number: Fraction | None = None
    solution: Mapping[str, frozenset[Value]] | None = None
    """Unknown to all its values."""


def read_reference(text: str) -> Answer | None:
    """A reference answer: `19`, `-5/36`, `x = 2, y = 3`, one value of an unknown per assignment;
    None if it is neither."""
    solution = final_solution(text)
    if solution:
        return Answer(solution=solution)
    match = _NUMBER.fullmatch(_plain(text).strip())
    number = _fraction(match) if match else None
    return None if number is None else Answer(number=number)


def final_number(text: str) -> Fraction | None:
    r"""The last number of a text, or of its last `\boxed{}`; None without one.

    Thousands separators and fractions are read, citation marks (`<|1|>`) are not; a percent sign
    changes nothing.
    """
    plain = _plain(text)
    boxed = _BOXED.findall(plain)
    matches = list(_NUMBER.finditer(boxed[-1] if boxed else plain))
    return _fraction(matches[-1]) if matches else None


def final_solution(text: str) -> dict[str, frozenset[Value]]:
    """Every one-letter unknown that a text sets equal to something, with all its values.

    Of a chain (`x = 4/2 = 2`) the last value counts; `2x = 4` and `x^2 = 9` assign nothing.
    """
    found: dict[str, set[Value]] = {}
    names: list[str] = []
    for clause in _CLAUSE_END.split(_plain(text)):
        *sides, last = clause.split("=")
        if sides:
            names = [name for name in map(_unknown_at_end, sides) if name]
        elif not _NUMBER.fullmatch(last.strip()):  # of "x = 2 or 3" the 3 is one more value
            continue
        match = _VALUE.match(last)
        if match is not None and match[1].strip():
            for name in names:
                found.setdefault(name, set()).add(_value(match[1]))
    return {name: frozenset(values) for name, values in found.items()}


def agree(reference: Answer, text: str, *, relative_tolerance: float) -> bool:
    """Whether a text ends with the reference's number, or gives its unknowns exactly its values."""
    if reference.solution is not None:
        given = final_solution(text)
        return all(
            _same_values(values, given.get(name, frozenset()), relative_tolerance)
            for name, values in reference.solution.items()
        )
    number = final_number(text)
    assert reference.number is not None, "a reference is a number or a solution"
    return number is not None and _equal(reference.number, number, relative_tolerance)


def _same_values(
    expected: frozenset[Value], given: frozenset[Value], relative_tolerance: float
) -> bool:
    return all(
        any(_equal(value, other, relative_tolerance) for other in others)
        for values, others in ((expected, given), (given, expected))
        for value in values
    ) and bool(given)


def _equal(expected: Value, given: Value, relative_tolerance: float) -> bool:
    if isinstance(expected, Fraction) and isinstance(given, Fraction):
        return abs(expected - given) <= Fraction(relative_tolerance) * abs(expected)
    return expected == given


def _unknown_at_end(side: str) -> str | None:
    match = _NAME_AT_END.search(side)
    if match is None or len(match[1]) != 1 or not match[1].isalpha():
        return None
    before = side[: match.start()].rstrip()
    return None if before.endswith(("+", "-", "*", "/", "^", "(")) else match[1]


def _value(text: str) -> Value:
    compact = "".join(text.split()).casefold().replace("**", "^").rstrip(".")
    match = _NUMBER.fullmatch(compact)
    number = _fraction(match) if match else None
    return compact if number is None else number


def _fraction(match: re.Match[str]) -> Fraction | None:
    if len(match[0]) > _MAX_NUMBER_CHARS:
        return None
    number = Fraction(match[1].replace(",", "")) * Fraction(10) ** int(match[2] or 0)
    below = Fraction(match[3] or 1)
    return number / below if below else None


def _plain(text: str) -> str:
    plain = unicodedata.normalize("NFKC", _CITATION.sub(" ", text))
    return plain.translate({0x2212: "-", 0x2013: "-", 0x00D7: "*"}).replace("$", "")
