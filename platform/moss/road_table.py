"""Shows a road's stages: a live table on a terminal, else one line per change."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol, Self, TextIO

from rich.console import Console, JustifyMethod
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from moss.road import StageState
from moss.road_runs import StageView

REFRESH_PER_S = 4
LINE_INTERVAL_S = 20.0
"""Where lines are written, a running stage's progress appears at most this often."""

UNCUT_WIDTH = 1000
"""Where no terminal cuts lines; a table is drawn only as wide as its cells are."""

_CELL_BORDER = 3
"""Characters of a cell beside its text: two of padding, one of border."""

STYLES: dict[StageState, str] = {
    "waiting": "dim",
    "running": "bold yellow",
    "done": "green",
    "failed": "bold red",
    "stopped": "bold magenta",
    "skipped": "cyan",
}


class RoadDisplay(Protocol):
    """Where the controller shows the stages."""

    def show(self, views: Sequence[StageView]) -> None:
        """The present state of every stage."""

    def say(self, message: str) -> None:
        """A line that stays."""


class LiveTable:
    """Live table for a terminal; a context manager."""

    def __init__(self, title: str, console: Console | None = None) -> None:
        self._title = title
        self._console = console or Console()
        self._live = Live(console=self._console, refresh_per_second=REFRESH_PER_S)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, views: Sequence[StageView]) -> None:
        """Redraw the table."""
        self._live.update(stage_table(self._title, views, width=self._console.width))

    def say(self, message: str) -> None:
        """Print above the table."""
        self._console.print(message, markup=False, highlight=False)


class ChangeLines:
    """One line per change, for logs; running stages report now and then."""

    def __init__(self, stream: TextIO, interval_s: float = LINE_INTERVAL_S) -> None:
        self._stream = stream
        self._interval_s = interval_s
        self._states: dict[str, StageState] = {}
        self._reported_at_s: dict[str, float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def show(self, views: Sequence[StageView]) -> None:
        """Write a line for each stage whose state changed, and for running ones at intervals."""
        for index, view in enumerate(views, start=1):
            changed = self._states.get(view.run_id, "waiting") != view.state
            if changed or self._is_due(view):
                self._reported_at_s[view.run_id] = time.monotonic()
                self.say(f"[{index}/{len(views)}] {describe_view(view)}")
            self._states[view.run_id] = view.state

    def say(self, message: str) -> None:
        """Write a line."""
        print(message, file=self._stream, flush=True)

    def _is_due(self, view: StageView) -> bool:
        since_s = time.monotonic() - self._reported_at_s.get(view.run_id, 0.0)
        return view.state == "running" and bool(view.note) and since_s >= self._interval_s


def print_stages(title: str, views: Sequence[StageView], stream: TextIO | None = None) -> None:
    """Print the table once: cut to the width of a terminal, whole elsewhere.

    Args:
        stream: stdout when None.
    """
    console = Console(file=stream)
    if not console.is_terminal:
        console = Console(file=stream, width=UNCUT_WIDTH)
    console.print(stage_table(title, views, width=console.width))


def stage_table(title: str, views: Sequence[StageView], *, width: int) -> Table:
    """The stages as a rich table of at most `width` characters; progress is cut to what is left.

    The column `written` counts the rows of all of a stage's files, whatever became of them.
    """
    table = Table(title=title, title_justify="left")
    columns: list[tuple[str, JustifyMethod, list[str]]] = [
        ("stage", "left", [view.run_id for view in views]),
        ("state", "left", [view.state for view in views]),
        ("written", "right", [_rows(view) for view in views]),
        ("time", "right", [_clock(view.seconds) for view in views]),
        ("spend", "left", [view.spend for view in views]),
    ]
    taken = 1
    for name, justify, cells in columns:
        longest = max(map(len, (name, *cells)))
        taken += longest + _CELL_BORDER
        table.add_column(name, justify=justify, no_wrap=True, min_width=longest)
    room = max(len("progress"), width - taken - _CELL_BORDER)
    table.add_column("progress", no_wrap=True)
    for index, view in enumerate(views):
        stage, state, rows, clock, spend = (cells[index] for *_, cells in columns)
        colored = f"[{STYLES[view.state]}]{state}[/]"
        table.add_row(stage, colored, rows, clock, spend, escape(view.note[:room]))
    return table


def describe_view(view: StageView) -> str:
    """A stage in one line of text."""
    details = [
        f"{_rows(view)} rows written" if view.num_rows is not None else "",
        _clock(view.seconds),
        view.spend,
        view.note,
    ]
    told = ", ".join(part for part in details if part)
    return f"{view.run_id} ({view.job}) {view.state}" + (f": {told}" if told else "")


def _rows(view: StageView) -> str:
    return "" if view.num_rows is None else f"{view.num_rows:,}"


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
