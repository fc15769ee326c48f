"""What each kind of run adds to the common report; one class per stage implements it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Protocol

from moss.recipes import Row
from moss.reporting.blocks import Comparison, ComparisonChart, Meter, MeterChart, Section, Table
from moss.synthesis_rows import Dataset


class StageTally(Protocol):
    """Collects a stage's figures in one pass over its rows."""

    def add(self, dataset: Dataset, row: Row, /) -> None:
        """Count one row of one file."""

    def sections(self) -> list[Section]:
        """The stage's own part of the report."""

    def metrics(self) -> dict[str, float]:
        """Its figures by name, for the machine-readable report."""


class QuotaTally:
    """Rows of each bucket by status, held against the bucket's quota."""

    def __init__(self, quotas: Mapping[str, int], num_seeds: Mapping[str, int]) -> None:
        self._quotas = quotas
        self._num_seeds = num_seeds
        self._counts: Counter[tuple[str, str]] = Counter()

    def add(self, bucket: str, status: str) -> None:
        """Count one row."""
        self._counts[bucket, status] += 1

    def section(self, title: str, *, caption: str = "") -> Section:
        """Every bucket with its seeds, quota and rows."""
        buckets = sorted({*self._quotas, *(bucket for bucket, _ in self._counts)})
        rows = tuple(self._row(bucket) for bucket in buckets)
        columns = ("bucket", "seeds", "quota", "ok", "filtered", "skipped", "failed")
        meters = tuple(
            Meter(label=bucket, value=self._counts[bucket, "ok"], goal=quota)
            for bucket, quota in sorted(self._quotas.items())
        )
        return Section(
            title=title,
            blocks=(
                MeterChart(title="Accepted, of the quota", meters=meters),
                Table(title="", columns=columns, rows=rows, caption=caption),
            ),
        )

    def _row(self, bucket: str) -> tuple[str, ...]:
        counts = (self._counts[bucket, s] for s in ("ok", "filtered", "skipped", "failed"))
        numbers = (self._num_seeds.get(bucket, 0), self._quotas.get(bucket, 0), *counts)
        return (bucket, *(f"{number:,}" for number in numbers))

    def shortfall(self) -> int:
        """Rows missing to the quotas, all buckets together."""
        return sum(max(0, q - self._counts[bucket, "ok"]) for bucket, q in self._quotas.items())


def share_comparison(
    title: str,
    counts: Mapping[str, int],
    reference: Mapping[str, float],
    *,
    reference_name: str = "paper",
) -> ComparisonChart:
    """Shares of counts beside reference shares, in the reference's order, then the rest."""
    total = sum(counts.values()) or 1
    whole = sum(reference.values()) or 1.0
    names = [*reference, *sorted(set(counts) - set(reference))]
    return ComparisonChart(
        title=title,
        reference_name=reference_name,
        rows=tuple(
            Comparison(
                label=name,
                measured=counts.get(name, 0) / total,
                reference=reference[name] / whole if name in reference else None,
            )
            for name in names
        ),
    )


def percent(part: float, whole: float) -> str:
    """`12.3 %`; a dash where there is nothing to take a share of."""
    return f"{100 * part / whole:.1f} %" if whole else "–"
