"""Charts as inline SVG. Widths are percentages, so text keeps its size on a phone."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from moss.reporting.blocks import (
    BarChart,
    ComparisonChart,
    Histogram,
    MeterChart,
    ShareChart,
)

_LINE = 17
"""Height of a line of text, pixels."""
_BAR = 13
_GAP = 13
_ROW = _LINE + _BAR + _GAP
_PLOT_HEIGHT = 150
_MIN_SHARE_WRITTEN = 0.07
"""Narrower parts of a stacked bar hold no text."""
SERIES_CLASSES = ("bar", "second", "third", "fourth")


def bar_chart(chart: BarChart) -> str:
    """Horizontal bars from zero, with whiskers; negative values go to the left."""
    low = min(0.0, *(bar.low for bar in chart.bars)) if chart.bars else 0.0
    high = max(0.0, *(bar.high for bar in chart.bars)) if chart.bars else 1.0
    scale = 100 / ((high - low) or 1.0)
    zero = -low * scale
    marks = [_line("axis", zero, 0, zero, _ROW * len(chart.bars))]
    for index, bar in enumerate(chart.bars):
        top, end = index * _ROW, zero + bar.value * scale
        middle = top + _LINE + _BAR / 2
        first, last = zero + bar.low * scale, zero + bar.high * scale
        marks += [
            *_labels(top, bar.label, f"{bar.value:.3f} [{bar.low:.3f}, {bar.high:.3f}]"),
            _rect("bar", min(zero, end), top + _LINE, abs(end - zero), _BAR),
            _line("whisker", first, middle, last, middle),
        ]
    return _figure(f"{chart.title} ({chart.unit}, 95 % intervals)", marks, _ROW * len(chart.bars))


def share_chart(chart: ShareChart) -> str:
    """Stacked shares, one row each, the share written inside its part."""
    marks = []
    for index, (label, shares) in enumerate(chart.rows):
        top, left = index * _ROW, 0.0
        marks += _labels(top, label, "")
        for part, share in zip(chart.parts, shares, strict=True):
            width = 100 * share
            marks.append(_rect(part, left, top + _LINE, width, _BAR + 4))
            if share >= _MIN_SHARE_WRITTEN:
                place = top + _LINE + _BAR
                marks.append(_text(left + width / 2, place, f"{width:.0f} %", "inside", "middle"))
            left += width
    legend = _legend([(part, part) for part in chart.parts])
    return _figure(chart.title, marks, _ROW * len(chart.rows) + 4, legend=legend)


def meter_chart(chart: MeterChart) -> str:
    """What was reached of each goal; a full track is a met goal."""
    marks = []
    for index, meter in enumerate(chart.meters):
        top = index * _ROW
        share = 1.0 if meter.goal == 0 else min(1.0, meter.value / meter.goal)
        reached = "met" if meter.value >= meter.goal else f"{meter.goal - meter.value:,} short"
        marks += [
            *_labels(top, meter.label, f"{meter.value:,} of {meter.goal:,} · {reached}"),
            _rect("track", 0, top + _LINE, 100, _BAR),
            _rect("ok" if share >= 1 else "filtered", 0, top + _LINE, 100 * share, _BAR),
        ]
    return _figure(chart.title, marks, _ROW * len(chart.meters))


def comparison_chart(chart: ComparisonChart) -> str:
    """Each share of this run as a bar, the paper's as a thinner one below it."""
    shares = [row.measured for row in chart.rows]
    shares += [row.reference for row in chart.rows if row.reference is not None]
    scale = 100 / (max(shares, default=0.0) or 1.0)
    marks = []
    for index, row in enumerate(chart.rows):
        top = index * (_ROW + 4)
        written = f"{100 * row.measured:.1f} %"
        if row.reference is not None:
            written += f" · {chart.reference_name} {100 * row.reference:.1f} %"
            marks.append(_rect("reference", 0, top + _LINE + _BAR + 1, row.reference * scale, 5))
        marks += [
            *_labels(top, row.label, written),
            _rect("bar", 0, top + _LINE, row.measured * scale, _BAR),
        ]
    legend = _legend([("bar", "this run"), ("reference", chart.reference_name)])
    return _figure(chart.title, marks, (_ROW + 4) * len(chart.rows), legend=legend)


def histogram(chart: Histogram) -> str:
    """Columns per bin, groups stacked, expectations as a line across each column."""
    totals = [sum(s.counts[index] for s in chart.series) for index in range(len(chart.bins))]
    scale = _PLOT_HEIGHT / (max([*totals, *chart.expected], default=0) or 1)
    width = 100 / max(1, len(chart.bins))
    base = _LINE + _PLOT_HEIGHT
    marks = [_line("axis", 0, base, 100, base)]
    for index, label in enumerate(chart.bins):
        left, top = index * width, float(base)
        for name, series in zip(SERIES_CLASSES, chart.series, strict=False):
            height = series.counts[index] * scale
            top -= height
            marks.append(_rect(name, left + width * 0.1, top, width * 0.8, height))
        if chart.expected:
            level = base - chart.expected[index] * scale
            marks.append(_line("expected", left + width * 0.04, level, left + width * 0.96, level))
            top = min(top, level)
        middle = left + width / 2
        if totals[index]:
            marks.append(_text(middle, top - 4, f"{totals[index]:,}", "small", "middle"))
        marks.append(_text(middle, base + 14, label, "small", "middle"))
    marks.append(_text(50, base + 32, chart.unit, "soft small", "middle"))
    named = list(zip(SERIES_CLASSES, (series.name for series in chart.series), strict=False))
    if chart.expected:
        named.append(("expected", chart.expected_name))
    return _figure(chart.title, marks, base + 38, legend=_legend(named))


def _labels(top: float, left: str, right: str) -> list[str]:
    marks = [_text(0, top + 12, left)]
    if right:
        marks.append(_text(100, top + 12, right, "soft", "end"))
    return marks


def _legend(named: Sequence[tuple[str, str]]) -> str:
    items = (f'<span><i class="{escape(name)}"></i>{escape(label)}</span>' for name, label in named)
    return f'<p class="legend">{"".join(items)}</p>'


def _figure(title: str, marks: Sequence[str], height: float, *, legend: str = "") -> str:
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>{legend}"
        f'<svg width="100%" height="{max(1, height):.0f}" role="img" '
        f'aria-label="{escape(title)}">{"".join(marks)}</svg></figure>'
    )


def _rect(name: str, x: float, y: float, width: float, height: float) -> str:
    return (
        f'<rect class="{escape(name)}" x="{x:.2f}%" y="{y:.1f}" width="{max(0.0, width):.2f}%" '
        f'height="{max(0.0, height):.1f}"/>'
    )


def _line(name: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{name}" x1="{x1:.2f}%" y1="{y1:.1f}" x2="{x2:.2f}%" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, name: str = "", anchor: str = "start") -> str:
    style = f' class="{name}"' if name else ""
    return f'<text{style} x="{x:.2f}%" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
