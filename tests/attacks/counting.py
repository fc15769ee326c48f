"""Counts the cases of the suite, so that a test can hold it to its size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import pytest

T = TypeVar("T")
NUM_CASES: dict[str, int] = {}
"""Table name -> cases in it, of the modules imported so far."""


def attack(table: str, cases: Mapping[str, T]) -> pytest.MarkDecorator:
    """Parametrize `case` over a table; each case is named by what it tries."""
    NUM_CASES[table] = len(cases)
    return pytest.mark.parametrize("case", cases.values(), ids=cases.keys())
