"""The report as one HTML page: styles and SVG charts inside, nothing loaded from anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from moss.evaluation.report import BarChart, Report, ShareChart, Table

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5d6b7e; --line: #d8dee8;
  --paper: #ffffff; --bar: #3d6fb4; --win: #2f8f5b; --tie: #a9b3c1; --lose: #c2544d; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6ebf2; --soft: #9aa7b8; --line: #3a4454;
  --paper: #171c24; --bar: #7ba6e0; --win: #5fbf8a; --tie: #66707f; --lose: #e08780; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2.2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; min-width: 50%; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .35rem .7rem; text-align: right; }
th:first-child, td:first-child { text-align: left; }
caption { caption-side: bottom; text-align: left; color: var(--soft); padding-top: .4rem; }
.note { border-left: 4px solid var(--lose); padding: .4rem .8rem; margin: .6rem 0; }
.pass { color: var(--win); font-weight: 600; } .short { color: var(--lose); font-weight: 600; }
svg { max-width: 100%; height: auto; display: block; }
svg text { fill: var(--ink); font-size: 12px; }
.axis { stroke: var(--line); } .bar { fill: var(--bar); } .whisker { stroke: var(--ink); }
.win { fill: var(--win); } .tie { fill: var(--tie); } .lose { fill: var(--lose); }
"""

_LABEL_WIDTH = 250
_PLOT_WIDTH = 420
_ROW_HEIGHT = 26
_WIDTH = _LABEL_WIDTH + _PLOT_WIDTH + 110


def render_html(report: Report) -> str:
    """The whole page."""
    body = [
        f"<h1>{escape(report.title)}</h1>",
        *(f'<p class="note">{escape(note)}</p>' for note in report.notes),
        f"<h2>Targets: {report.num_met} of {len(report.targets)} met</h2>",
        _targets(report),
        *(_table(table) for table in report.tables),
        *(_share_chart(chart) for chart in report.share_charts),
        *(_bar_chart(chart) for chart in report.bar_charts),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(report.title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _targets(report: Report) -> str:
    rows = [
        f"<tr><td>{escape(target.name)}</td><td>{escape(target.measured)}</td>"
        f"<td>{escape(target.required)}</td>"
        + ('<td class="pass">pass</td>' if target.met else '<td class="short">falls short</td>')
        + "</tr>"
        for target in report.targets
    ]
    return _frame(_head(("target", "measured", "required", "verdict")) + "".join(rows))


def _table(table: Table) -> str:
    caption = f"<caption>{escape(table.caption)}</caption>" if table.caption else ""
    rows = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in table.rows]
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"<h2>{escape(table.title)}</h2>" + _frame(caption + _head(table.columns) + body)


def _head(columns: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<th>{escape(column)}</th>" for column in columns) + "</tr>"


def _frame(inner: str) -> str:
    return f'<div class="scroll"><table>{inner}</table></div>'


def _bar_chart(chart: BarChart) -> str:
    """Horizontal bars from zero, with whiskers; negative values go to the left."""
    low = min(0.0, *(bar.low for bar in chart.bars)) if chart.bars else 0.0
    high = max(0.0, *(bar.high for bar in chart.bars)) if chart.bars else 1.0
    scale = _PLOT_WIDTH / ((high - low) or 1.0)
    zero = _LABEL_WIDTH - low * scale
    marks = [_line("axis", zero, 0, zero, _ROW_HEIGHT * len(chart.bars))]
    for index, bar in enumerate(chart.bars):
        top, end = index * _ROW_HEIGHT, zero + bar.value * scale
        middle = top + _ROW_HEIGHT / 2
        first, last = zero + bar.low * scale, zero + bar.high * scale
        marks += [
            _text(_LABEL_WIDTH - 8, middle + 4, bar.label, anchor="end"),
            _rect("bar", min(zero, end), top + 5, abs(end - zero), _ROW_HEIGHT - 10),
            _line("whisker", first, middle, last, middle),
            _text(_LABEL_WIDTH + _PLOT_WIDTH + 10, middle + 4, f"{bar.value:.3f}"),
        ]
    return _svg(f"{chart.title} ({chart.unit}, 95 % intervals)", marks, len(chart.bars))


def _share_chart(chart: ShareChart) -> str:
    """Stacked shares, one row each, the share written inside its part."""
    marks = []
    for index, (label, shares) in enumerate(chart.rows):
        top, left = index * _ROW_HEIGHT, float(_LABEL_WIDTH)
        marks.append(_text(_LABEL_WIDTH - 8, top + _ROW_HEIGHT / 2 + 4, label, anchor="end"))
        for part, share in zip(chart.parts, shares, strict=True):
            width = share * _PLOT_WIDTH
            marks.append(_rect(part, left, top + 3, width, _ROW_HEIGHT - 6))
            if width > 34:
                written = f"{100 * share:.0f} %"
                middle = top + _ROW_HEIGHT / 2 + 4
                marks.append(_text(left + width / 2, middle, written, anchor="middle"))
            left += width
    return _svg(f"{chart.title} ({', '.join(chart.parts)})", marks, len(chart.rows))


def _svg(title: str, marks: Sequence[str], num_rows: int) -> str:
    height = max(1, num_rows) * _ROW_HEIGHT + 4
    return (
        f"<h2>{escape(title)}</h2>"
        f'<svg viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" role="img" '
        f'aria-label="{escape(title)}">{"".join(marks)}</svg>'
    )


def _rect(name: str, x: float, y: float, width: float, height: float) -> str:
    return (
        f'<rect class="{escape(name)}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" '
        f'height="{height:.1f}"/>'
    )


def _line(name: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{name}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
