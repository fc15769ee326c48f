"""The report of a synthesis or labelling run: `report.json`, and `report.html` to look at.

One pass over the run's files with bounded memory. A report whose counts do not add up is an error,
so a run with such counts does not finish. Nothing here depends on time or place: equal work gives
equal reports.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from html import escape

from moss.config.base import Config, StageConfig
from moss.config.labelling import LabelPreferencesConfig
from moss.config.synthesis import (
    CollectPromptsConfig,
    SynthesisConfig,
    SynthesizeConversationsConfig,
    SynthesizePromptsConfig,
    SynthesizeToolConversationsConfig,
)
from moss.config.teacher import TeacherConfig
from moss.errors import ConfigError
from moss.manifest import STATUSES
from moss.recipes import Row
from moss.reporting.accounts import (
    ReasonClass,
    Reasons,
    StepAccount,
    WrittenRows,
    step_accounts,
)
from moss.reporting.blocks import Section, ShareChart, Table, Tile
from moss.reporting.page import html_page, notes_html, section_html, tiles_html
from moss.reporting.stage import StageTally
from moss.reporting.stage_collection import CollectionTally
from moss.reporting.stage_conversations import ConversationsTally
from moss.reporting.stage_preferences import PreferencesTally
from moss.reporting.stage_prompts import PromptsTally
from moss.reporting.stage_tools import ToolsTally
from moss.spend import SpendLine, SpendTable, check_spend
from moss.synthesis_rows import Dataset, Outcome

REPORT_JSON = "report.json"
REPORT_HTML = "report.html"
STAND_IN_NOTE = "made with the offline teacher, a rule-based stand-in for a language model"


class SpendRow(Config):
    """What one step spent on one model."""

    step: str
    model: str
    num_calls: int
    prompt_tokens: int
    completion_tokens: int
    usd: Decimal | None
    """None where the model has no price."""


class RunReport(Config):
    """Everything the page shows, and the figures behind it."""

    stage: str
    run_id: str
    stand_in: bool
    """The offline teacher answered, not a language model."""
    notes: tuple[str, ...]
    num_ok: int
    """Rows of the run's last file that came through: what later runs read."""
    steps: tuple[StepAccount, ...]
    spend: tuple[SpendRow, ...]
    usd: Decimal | None
    """All spend; None where a price is unknown."""
    reasons: tuple[ReasonClass, ...]
    metrics: dict[str, float]
    sections: tuple[Section, ...]


def tally_for(config: StageConfig, outcome: Outcome) -> StageTally:
    """What a stage counts beside the common figures.

    Raises:
        ConfigError: the stage has no report of rows.
    """
    match config:
        case SynthesizePromptsConfig():
            return PromptsTally(config, outcome.num_seeds)
        case SynthesizeConversationsConfig():
            return ConversationsTally(config)
        case SynthesizeToolConversationsConfig():
            return ToolsTally(config, outcome.num_seeds)
        case CollectPromptsConfig():
            return CollectionTally()
        case LabelPreferencesConfig():
            return PreferencesTally()
    raise ConfigError(f"no report of rows for a {type(config).__name__}")


def make_report(
    config: SynthesisConfig,
    stage: str,
    outcome: Outcome,
    files: Mapping[Dataset, Iterable[Row]],
    *,
    teacher: TeacherConfig,
    stand_in: bool,
) -> RunReport:
    """Read a run's files once and report on them.

    Args:
        files: rows of each file, as written.
    Raises:
        DataError: counts or spend do not add up.
    """
    accounts = step_accounts(outcome.counts, outcome.rows_in)
    written, reasons, spend = WrittenRows(), Reasons(), SpendTable(teacher)
    tally = tally_for(config, outcome)
    num_ok = 0
    for dataset, rows in files.items():
        num_ok = 0
        for row in rows:
            num_ok += row["status"] == "ok"
            written.add(row)
            reasons.add(row)
            spend.add(row)
            tally.add(dataset, row)
    written.check(accounts)
    lines = spend.lines()
    check_spend(lines, {model: list(counts) for model, counts in outcome.usage.items()})
    return RunReport(
        stage=stage,
        run_id=config.run_id,
        stand_in=stand_in,
        notes=(*([STAND_IN_NOTE] if stand_in else []), *outcome.notes),
        num_ok=num_ok,
        steps=accounts,
        spend=tuple(_spend_row(line) for line in lines),
        usd=total_usd(lines),
        reasons=reasons.classes(),
        metrics=tally.metrics(),
        sections=tuple(tally.sections()),
    )


def total_usd(lines: Iterable[SpendLine]) -> Decimal | None:
    """The price of all lines; None where one is unknown or there is none."""
    prices = [line.usd for line in lines]
    known = [usd for usd in prices if usd is not None]
    return sum(known, Decimal(0)) if prices and len(known) == len(prices) else None


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
    return [
        Tile(label="Came through", value=f"{report.num_ok:,}", note="rows for the next run"),
        Tile(label="Failed", value=f"{num_failed:,}", note=f"in {num_in:,} rows of all steps"),
        Tile(label="Answers", value=f"{calls:,}", note="paid once each"),
        Tile(label="Tokens", value=f"{tokens:,}", note="prompts and answers"),
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
    return Section(
        title="Where the rows went",
        blocks=(
            ShareChart(title="Share of the rows of each step", parts=STATUSES, rows=shares),
            Table(title="", columns=("step", "in", *STATUSES), rows=rows, caption=caption),
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
    columns = ("step and model", "answers", "prompt tokens", "answer tokens", "USD")
    text = "" if report.usd is not None else "A dash: the model has no price under teacher.prices."
    table = Table(title="", columns=columns, rows=tuple(rows))
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


def _spend_row(line: SpendLine) -> SpendRow:
    return SpendRow(
        step=line.step,
        model=line.model,
        num_calls=line.num_calls,
        prompt_tokens=line.prompt_tokens,
        completion_tokens=line.completion_tokens,
        usd=line.usd,
    )
