"""Blocks that reports are made of, as data; `moss.reporting.page` draws them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from moss.config.base import Config


class Table(Config):
    """Columns of text; all but the first are aligned as numbers."""

    kind: Literal["table"] = "table"
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    """What was measured and how, in a sentence or two."""


class Bar(Config):
    """One bar with its 95 % interval."""

    label: str
    value: float
    low: float
    high: float


class BarChart(Config):
    """Bars of one quantity."""

    kind: Literal["bars"] = "bars"
    title: str
    unit: str
    bars: tuple[Bar, ...]


class ShareChart(Config):
    """Stacked shares, each row summing to 1."""

    kind: Literal["shares"] = "shares"
    title: str
    parts: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float, ...]], ...]
    """Label and one share per part."""


class Meter(Config):
    """How much of a goal was reached."""

    label: str
    value: int
    goal: int


class MeterChart(Config):
    """Goals and what was reached of each."""

    kind: Literal["meters"] = "meters"
    title: str
    meters: tuple[Meter, ...]


class Comparison(Config):
    """A share of this run beside the paper's."""

    label: str
    measured: float
    reference: float | None
    """None where the paper gives none."""


class ComparisonChart(Config):
    """Shares of this run, the paper's beside them; both from 0 to 1."""

    kind: Literal["comparison"] = "comparison"
    title: str
    reference_name: str
    rows: tuple[Comparison, ...]


class Series(Config):
    """Counts of one group, bin by bin."""

    name: str
    counts: tuple[int, ...]


class Histogram(Config):
    """Counts per bin, groups stacked; beside them, where known, what was expected."""

    kind: Literal["histogram"] = "histogram"
    title: str
    unit: str
    """What the bins count."""
    bins: tuple[str, ...]
    """Label of each bin: its one value, or its least and greatest."""
    series: tuple[Series, ...]
    expected: tuple[float, ...] = ()
    """Expected count of each bin; empty where there is no expectation."""
    expected_name: str = ""


Block = Annotated[
    Table | BarChart | ShareChart | MeterChart | ComparisonChart | Histogram,
    Field(discriminator="kind"),
]


class Section(Config):
    """Blocks under one heading."""

    title: str
    text: str = ""
    blocks: tuple[Block, ...]


class Tile(Config):
    """One number that a reader sees first."""

    label: str
    value: str
    note: str = ""
