"""The evaluation's report as data: JSON on disk, tables in a terminal.

`moss.evaluation.report_html` makes the page. A target that is missed is shown as falling short.
"""

from __future__ import annotations

from rich.console import Console
from rich.table import Table as RichTable

from moss import storage
from moss.config.base import Config, parse_config
from moss.errors import DataError
from moss.evaluation.statistics import Estimate
from moss.reporting.blocks import Bar as Bar
from moss.reporting.blocks import BarChart as BarChart
from moss.reporting.blocks import ShareChart as ShareChart
from moss.reporting.blocks import Table as Table

LOG_WIDTH = 118


class Target(Config):
    """A number that the road promises."""

    name: str
    measured: str
    required: str
    met: bool


class Report(Config):
    """Everything the evaluation found."""

    title: str
    notes: tuple[str, ...]
    """What a reader must know first, stand-ins above all."""
    targets: tuple[Target, ...]
    tables: tuple[Table, ...]
    bar_charts: tuple[BarChart, ...] = ()
    share_charts: tuple[ShareChart, ...] = ()

    @property
    def num_met(self) -> int:
        """Targets that were met."""
        return sum(target.met for target in self.targets)


def bar(label: str, estimate: Estimate) -> Bar:
    """An estimate as a bar."""
    return Bar(label=label, value=estimate.value, low=estimate.low, high=estimate.high)


def percent(estimate: Estimate | None) -> str:
    """`93.1 % [90.2, 95.3]`; a dash where nothing could be measured."""
    if estimate is None:
        return "–"
    low, high = 100 * estimate.low, 100 * estimate.high
    return f"{100 * estimate.value:.1f} % [{low:.1f}, {high:.1f}]"


def decimal(estimate: Estimate) -> str:
    """`1.234 [1.100, 1.360]`."""
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def save_report(report: Report, path: str) -> None:
    """Write `report.json`, atomically."""
    storage.write_json(path, report.model_dump(mode="json"))


def load_report(path: str) -> Report:
    """Read what `save_report` wrote.

    Raises:
        StorageError: it is absent.
        ConfigError, DataError: it is not a report.
    """
    data = storage.read_json(path)
    if not isinstance(data, dict):
        raise DataError(f"{path} holds a {type(data).__name__}, expected a report")
    return parse_config(Report, data, source=path)


def report_console() -> Console:
    """A console for reports: a terminal as wide as it is, a log wide enough for the tables."""
    console = Console()
    return console if console.is_terminal else Console(width=LOG_WIDTH)


def print_report(report: Report, console: Console) -> None:
    """The tables, the targets, and what a reader must know."""
    console.rule(report.title)
    for table in report.tables:
        drawn = RichTable(title=table.title, title_justify="left", caption=table.caption)
        drawn.caption_justify = "left"
        for index, column in enumerate(table.columns):
            drawn.add_column(column, justify="left" if index == 0 else "right")
        for row in table.rows:
            drawn.add_row(*row)
        console.print(drawn)
    console.print(_target_table(report))
    for note in report.notes:
        console.print(f"note: {note}", markup=False, highlight=False)


def _target_table(report: Report) -> RichTable:
    title = f"Targets: {report.num_met} of {len(report.targets)} met"
    drawn = RichTable("target", "measured", "required", "verdict", title=title)
    drawn.title_justify = "left"
    for target in report.targets:
        verdict = "[green]pass[/]" if target.met else "[bold red]falls short[/]"
        drawn.add_row(target.name, target.measured, target.required, verdict)
    return drawn
