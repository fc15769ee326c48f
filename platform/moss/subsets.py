"""A drawn part of a stream of rows, in the stream's order, with eight bytes held per row."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator
from math import inf

import numpy as np

from moss.recipes import Row

Lot = Callable[[Row], float | None]


def draw_rows(rows: Iterable[Row], count: int, lot: Lot) -> Iterator[Row]:
    """The `count` rows of the smallest lots, or all that have one if there are fewer.

    Args:
        rows: read twice, so no iterator.
        lot: number that depends on the row only, such as `stable_unit` of its id; None for a row
            that takes no part.
    """
    lots = array("d", (inf if (drawn := lot(row)) is None else drawn for row in rows))
    if not lots or count == 0:
        return
    last = np.partition(np.frombuffer(lots), min(count, len(lots)) - 1)[min(count, len(lots)) - 1]
    for drawn, row in zip(lots, rows, strict=True):
        if drawn <= last and drawn < inf:
            yield row
