"""Which rows of a run its viewer shows: all of a small run, a fair sample of a large one."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from moss.recipes import Row, stable_int
from moss.synthesis_rows import Dataset

Group = tuple[Dataset, str, str]
"""Dataset, step and status: every kind of outcome is shown before any kind is shown in full."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Rows to show."""

    ids: Mapping[Dataset, frozenset[str]]
    num_chosen: int
    num_rows: int
    """All rows of the run's files."""


def choose_rows(
    datasets: Iterable[Dataset], read: Callable[[Dataset], Iterator[Row]], *, limit: int
) -> Choice:
    """Choose at most `limit` rows; a large group gives way before a small one.

    Within a group the rows with the smallest hash of their id are taken, which is a random sample
    and the same one every time. Memory is at most `limit` ids per group.
    """
    heaps: dict[Group, list[tuple[int, str]]] = {}
    sizes: dict[Group, int] = {}
    for dataset in datasets:
        for row in read(dataset):
            group = (dataset, str(row["step"]), str(row["status"]))
            sizes[group] = sizes.get(group, 0) + 1
            heap = heaps.setdefault(group, [])
            item = (-stable_int("viewer", row["id"]), str(row["id"]))
            if len(heap) < limit:
                heapq.heappush(heap, item)
            else:
                heapq.heappushpop(heap, item)
    shares = fair_shares(sizes, limit)
    ids: dict[Dataset, set[str]] = {}
    for group, heap in heaps.items():
        kept = heapq.nlargest(shares[group], heap)
        ids.setdefault(group[0], set()).update(row_id for _, row_id in kept)
    return Choice(
        ids={dataset: frozenset(chosen) for dataset, chosen in ids.items()},
        num_chosen=sum(shares.values()),
        num_rows=sum(sizes.values()),
    )


def fair_shares(sizes: Mapping[Group, int], limit: int) -> dict[Group, int]:
    """Split `limit` evenly; what a small group leaves over goes to the larger ones."""
    shares: dict[Group, int] = {}
    left = limit
    for position, group in enumerate(sorted(sizes, key=lambda group: (sizes[group], group))):
        shares[group] = min(sizes[group], left // (len(sizes) - position))
        left -= shares[group]
    return shares
