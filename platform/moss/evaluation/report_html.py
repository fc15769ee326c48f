"""The evaluation's report as one HTML page."""

from __future__ import annotations

from html import escape

from moss.evaluation.report import Report
from moss.reporting.charts import bar_chart, share_chart
from moss.reporting.page import frame, head_html, html_page, notes_html, table_html


def render_html(report: Report) -> str:
    """The whole page."""
    body = [
        f"<h1>{escape(report.title)}</h1>",
        notes_html(report.notes),
        f"<section><h2>Targets: {report.num_met} of {len(report.targets)} met</h2>",
        _targets(report) + "</section>",
        *(f"<section>{table_html(table)}</section>" for table in report.tables),
        *(f"<section>{share_chart(chart)}</section>" for chart in report.share_charts),
        *(f"<section>{bar_chart(chart)}</section>" for chart in report.bar_charts),
    ]
    return html_page(report.title, "\n".join(body))


def _targets(report: Report) -> str:
    rows = [
        f"<tr><td>{escape(target.name)}</td><td>{escape(target.measured)}</td>"
        f"<td>{escape(target.required)}</td>"
        + ('<td class="pass">pass</td>' if target.met else '<td class="short">falls short</td>')
        + "</tr>"
        for target in report.targets
    ]
    return frame(head_html(("target", "measured", "required", "verdict")) + "".join(rows))
