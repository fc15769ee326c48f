"""Counts of whole numbers as tables and histograms; memory grows with distinct values only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from moss.reporting.blocks import Histogram, Series

LENGTH_EDGES = (0, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
"""Lower edges of the bins of lengths: a doubling each."""
FREQUENCY_EDGES = (1, 2, 3, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""The same for how often something occurred, where most occur once or twice."""
MIN_BINS = 3
"""Shown also where no value reaches the later ones."""


class Distribution:
    """How often each whole number occurred."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()

    def add(self, value: int) -> None:
        """Count one."""
        self.counts[value] += 1

    @property
    def num_values(self) -> int:
        """How many were counted."""
        return self.counts.total()

    @property
    def mean(self) -> float:
        """Arithmetic mean; 0 of none."""
        total = sum(value * count for value, count in self.counts.items())
        return total / self.num_values if self.counts else 0.0

    def quantile(self, share: float) -> int:
        """Least value that at least `share` of the values do not exceed; 0 of none."""
        seen = 0
        for value in sorted(self.counts):
            seen += self.counts[value]
            if seen >= share * self.num_values:
                return value
        return 0

    def row(self, label: str) -> tuple[str, ...]:
        """Label, number, mean, median, 95th percentile and greatest value, as text."""
        if not self.counts:
            return (label, "0", "–", "–", "–", "–")
        return (
            label,
            f"{self.num_values:,}",
            f"{self.mean:.2f}",
            f"{self.quantile(0.5):,}",
            f"{self.quantile(0.95):,}",
            f"{max(self.counts):,}",
        )


ROW_COLUMNS = ("n", "mean", "median", "95 %", "most")
"""Heads of what `Distribution.row` gives after its label."""


def length_histogram(
    title: str,
    unit: str,
    groups: Mapping[str, Distribution],
    *,
    edges: Sequence[int] = LENGTH_EDGES,
) -> Histogram:
    """Lengths, or other whole numbers, in bins that widen; one series per group.

    Args:
        edges: lower edge of each bin, ascending; smaller values go into the first bin.
    """
    last = max((max(group.counts, default=0) for group in groups.values()), default=0)
    labels = [*map(_span, edges, edges[1:]), f"{edges[-1]}+"]
    edges = [edge for edge in edges if edge <= max(last, edges[MIN_BINS - 1])]
    return Histogram(
        title=title,
        unit=unit,
        bins=tuple(labels[: len(edges)]),
        series=tuple(
            Series(name=name, counts=_binned(group.counts, edges))
            for name, group in sorted(groups.items())
        ),
    )


def count_histogram(
    title: str,
    unit: str,
    groups: Mapping[str, Distribution],
    *,
    values: Sequence[int],
    expected: Mapping[int, float] | None = None,
    expected_name: str = "",
) -> Histogram:
    """One bin per value; `expected` holds shares, which become counts."""
    total = sum(group.num_values for group in groups.values())
    return Histogram(
        title=title,
        unit=unit,
        bins=tuple(map(str, values)),
        series=tuple(
            Series(name=name, counts=tuple(group.counts[value] for value in values))
            for name, group in sorted(groups.items())
        ),
        expected=tuple(total * expected.get(value, 0.0) for value in values) if expected else (),
        expected_name=expected_name,
    )


def _span(first: int, following: int) -> str:
    return str(first) if following == first + 1 else f"{first}–{following - 1}"


def _binned(counts: Mapping[int, int], edges: Sequence[int]) -> tuple[int, ...]:
    bins = [0] * len(edges)
    for value, count in counts.items():
        bins[max(index for index, edge in enumerate(edges) if edge <= max(value, edges[0]))] += (
            count
        )
    return tuple(bins)
