"""Reports as one HTML page: styles and SVG charts inside, nothing loaded from anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from html import escape
from importlib import resources

from moss.reporting.blocks import (
    BarChart,
    Block,
    ComparisonChart,
    Histogram,
    MeterChart,
    Section,
    ShareChart,
    Table,
    Tile,
)
from moss.reporting.charts import (
    bar_chart,
    comparison_chart,
    histogram,
    meter_chart,
    share_chart,
)

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""Content security policy of a report: styles inside the page, nothing else."""


@cache
def asset(name: str) -> str:
    """A bundled style sheet or script."""
    return (resources.files("moss") / "data" / "pages" / name).read_text(encoding="utf-8")


def html_page(title: str, body: str, *, style: str = "", policy: str = _POLICY) -> str:
    """A whole document.

    Args:
        title: shown by the browser.
        body: HTML, escaped by whoever made it.
        style: more CSS after the common one.
        policy: what the browser may load and run.
    """
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{asset('page.css')}{style}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )


def notes_html(notes: Iterable[str]) -> str:
    """What a reader must know first."""
    return "".join(f'<p class="note">{escape(note)}</p>' for note in notes)


def tiles_html(tiles: Sequence[Tile]) -> str:
    """The numbers that a reader sees first."""
    cells = (
        f"<div><dt>{escape(tile.label)}</dt><dd>{escape(tile.value)}"
        f"<small>{escape(tile.note)}</small></dd></div>"
        for tile in tiles
    )
    return f'<dl class="tiles">{"".join(cells)}</dl>'


def section_html(section: Section) -> str:
    """A heading and its blocks."""
    text = f'<p class="soft">{escape(section.text)}</p>' if section.text else ""
    blocks = "".join(map(block_html, section.blocks))
    return f"<section><h2>{escape(section.title)}</h2>{text}{blocks}</section>"


def block_html(block: Block) -> str:
    """One block."""
    match block:
        case Table():
            return table_html(block)
        case BarChart():
            return bar_chart(block)
        case ShareChart():
            return share_chart(block)
        case MeterChart():
            return meter_chart(block)
        case ComparisonChart():
            return comparison_chart(block)
        case Histogram():
            return histogram(block)


def table_html(table: Table) -> str:
    """A table under its title."""
    caption = f"<caption>{escape(table.caption)}</caption>" if table.caption else ""
    rows = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in table.rows]
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    title = f"<h3>{escape(table.title)}</h3>" if table.title else ""
    return title + frame(caption + head_html(table.columns) + body)


def head_html(columns: Sequence[str]) -> str:
    """The head row of a table."""
    return "<tr>" + "".join(f"<th>{escape(column)}</th>" for column in columns) + "</tr>"


def frame(inner: str) -> str:
    """Table rows as a table that scrolls by itself where it is wider than the screen."""
    return f'<div class="scroll" tabindex="0"><table>{inner}</table></div>'
