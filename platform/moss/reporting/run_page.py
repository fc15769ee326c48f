"""The page of a synthesis or labelling run: `report.html`, drawn from the report's figures."""

from __future__ import annotations

from decimal import Decimal
from html import escape

from moss.manifest import STATUSES
from moss.reporting.blocks import Section, ShareChart, Table, Tile
from moss.reporting.page import html_page, notes_html, section_html, tiles_html
from moss.reporting.run_report import REPORT_JSON, RunReport

REPORT_HTML = "report.html"
WITHOUT_ANSWER = (
    "Below the sum: calls in flight when a process was killed (sent, not answered) and calls whose "
    "answer did not come whole or in time. They may have been billed, count against the budget, "
    "and may have been made again."
)


def render_report(report: RunReport, *, rows_page: str | None) -> str:
    """The page; `rows_page` is the viewer's file beside it."""
    title = f"{report.run_id} · {report.stage}"
    badge = ' <span class="tag filtered">stand-in teacher</span>' if report.stand_in else ""
    body = [
        f'<header><p class="eyebrow">{escape(report.stage)}</p>',
        f"<h1>{escape(report.run_id)}{badge}</h1>",
        _links(rows_page),
        "</header>",
        notes_html(report.notes),
        tiles_html(_tiles(report)),
        section_html(_steps_section(report)),
        *map(section_html, report.sections),
        section_html(_spend_section(report)),
        _reasons_html(report),
    ]
    return html_page(title, "\n".join(part for part in body if part))


def _links(rows_page: str | None) -> str:
    rows = f'<a href="{escape(rows_page)}">Look at the rows</a> · ' if rows_page else ""
    return f'<p class="soft">{rows}<a href="{REPORT_JSON}">the figures as JSON</a></p>'


def _tiles(report: RunReport) -> list[Tile]:
    num_failed = sum(step.failed for step in report.steps)
    num_in = sum(step.rows_in for step in report.steps)
    tokens = sum(row.prompt_tokens + row.completion_tokens for row in report.spend)
    calls = sum(row.num_calls for row in report.spend)
    usd = "unknown" if report.usd is None else f"${_money(report.usd)}"
    price_note = "a model has no price in the config" if report.usd is None else "all models"
    lost = sum(row.prompt_tokens + row.completion_tokens for row in report.without_answer)
    token_note = f"and at most {lost:,} without an answer" if lost else "prompts and answers"
    return [
        Tile(label="Came through", value=f"{report.num_ok:,}", note="rows for the next run"),
        Tile(label="Failed", value=f"{num_failed:,}", note=f"in {num_in:,} rows of all steps"),
        Tile(label="Answers", value=f"{calls:,}", note="paid once each"),
        Tile(label="Tokens", value=f"{tokens:,}", note=token_note),
        Tile(label="Spend", value=usd, note=price_note),
    ]


def _steps_section(report: RunReport) -> Section:
    rows = tuple(
        (
            step.step,
            *(f"{n:,}" for n in (step.rows_in, step.ok, step.failed, step.filtered, step.skipped)),
        )
        for step in report.steps
    )
    shares = tuple(
        (step.step, tuple(getattr(step, status) / step.rows_in for status in STATUSES))
        for step in report.steps
        if step.rows_in
    )
    caption = "In every step: in = ok + failed + filtered + skipped, checked against the files."
    files = tuple((item.file, f"{item.rows:,}", f"{item.ok:,}") for item in report.files)
    total = sum(item.rows for item in report.files)
    return Section(
        title="Where the rows went",
        blocks=(
            ShareChart(title="Share of the rows of each step", parts=STATUSES, rows=shares),
            Table(title="", columns=("step", "in", *STATUSES), rows=rows, caption=caption),
            Table(
                title="Rows written",
                columns=("file", "rows", "of them ok"),
                rows=files,
                caption="A row that did not come through is written too, with its reason. A road's "
                f"table shows the rows written, all files together: {total:,}.",
            ),
        ),
    )


def _spend_section(report: RunReport) -> Section:
    rows: list[tuple[str, ...]] = [
        (
            f"{row.step} · {row.model}",
            f"{row.num_calls:,}",
            f"{row.prompt_tokens:,}",
            f"{row.completion_tokens:,}",
            "–" if row.usd is None else _money(row.usd),
        )
        for row in report.spend
    ]
    sums = [
        sum(getattr(row, name) for row in report.spend)
        for name in ("num_calls", "prompt_tokens", "completion_tokens")
    ]
    usd = "–" if report.usd is None else _money(report.usd)
    rows.append(("all", *(f"{n:,}" for n in sums), usd))
    rows += [
        (
            f"{row.step} · {row.model}",
            f"{row.num_calls:,}",
            f"at most {row.prompt_tokens:,}",
            f"at most {row.completion_tokens:,}",
            "–" if row.usd is None else f"at most {_money(row.usd)}",
        )
        for row in report.without_answer
    ]
    columns = ("step and model", "calls", "prompt tokens", "answer tokens", "USD")
    text = "" if report.usd is not None else "A dash: the model has no price under teacher.prices."
    caption = WITHOUT_ANSWER if report.without_answer else ""
    table = Table(title="", columns=columns, rows=tuple(rows), caption=caption)
    return Section(title="Spend per step and model", text=text, blocks=(table,))


def _reasons_html(report: RunReport) -> str:
    if not report.reasons:
        return "<section><h2>What did not come through</h2><p>Every row came through.</p></section>"
    parts = []
    for item in report.reasons:
        examples = "".join(
            f"<li><code>{escape(example.id)}</code> {escape(example.text)}"
            f'<br><span class="soft">{escape(example.reason)}</span></li>'
            for example in item.examples
        )
        parts.append(
            f'<details><summary><b>{item.count:,}</b> <span class="tag {escape(item.status)}">'
            f"{escape(item.status)}</span> {escape(item.step)}: {escape(item.reason)}</summary>"
            f"<ul>{examples}</ul></details>"
        )
    return f"<section><h2>What did not come through</h2>{''.join(parts)}</section>"


def _money(usd: Decimal) -> str:
    """Cents, and as many further digits as a small sum needs."""
    return f"{usd:,.2f}" if usd >= 1 or usd == 0 else f"{usd:.6f}"
