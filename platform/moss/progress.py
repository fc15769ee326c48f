"""Progress of long work: one live line in a terminal, JSON lines elsewhere, a file for the road.

    with Progress("train_sft", total=500, unit="steps", run_folder=run.folder) as progress:
        for step in range(500):
            ...
            progress.update(done=step + 1, note=f"loss {loss:.3f}")

Counts given to `update` are totals so far; `advance` adds. A resumed stage passes `done_before`, so
that its rate and ETA come from this attempt's work alone.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Literal, Self, TextIO

from pydantic import ValidationError

from moss import storage
from moss.config.base import Config
from moss.errors import DataError, StorageError, TeacherQuotaError

PROGRESS_FILE = "progress.json"
ProgressState = Literal["running", "done", "stopped", "failed"]
"""`stopped`: a budget or quota is used up, or somebody interrupted; the run goes on when asked."""
_LIVE_LINE_EVERY_S = 0.1
_JSON_LINE_EVERY_S = 2.0
_FILE_EVERY_S = 1.0
FORECAST_FROM = 50
"""Finished units from which a forecast of the whole cost is worth showing."""


class ProgressRecord(Config):
    """Contents of `progress.json` and of each JSON line."""

    label: str
    state: ProgressState
    reason: str = ""
    """Why it stopped or failed."""
    done: int
    total: int | None
    """None where the end is not known."""
    unit: str
    failed: int
    spend_usd: float | None
    """None where the stage calls no priced endpoint."""
    spend_tokens: int | None = None
    """Prompt plus completion tokens; None where the stage calls no endpoint."""
    forecast_usd: float | None = None
    """What the whole will cost at today's cost per unit; None before `FORECAST_FROM` units, or
    where the total or a price is unknown."""
    forecast_tokens: int | None = None
    rate_per_s: float | None
    """Units per second of this attempt; None before the first unit."""
    eta_s: float | None
    elapsed_s: float
    note: str
    updated_at: str
    """UTC, ISO 8601."""


class Progress:
    """Counts of one piece of work and where they are shown; safe to update from many threads.

    Args:
        label: name of the work, as a rule the stage.
        total: units to do, failed ones included; None if unknown.
        unit: plural noun of what is counted (`rows`, `steps`).
        run_folder: where `progress.json` goes; None for no file.
        done_before: units that earlier attempts did.
        stream: where lines go; stderr when None.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        label: str,
        total: int | None = None,
        unit: str = "rows",
        run_folder: str | None = None,
        *,
        done_before: int = 0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._path = storage.join(run_folder, PROGRESS_FILE) if run_folder else None
        self._done_before = self._done = done_before
        self._failed = 0
        self._spend_usd: float | None = None
        self._spend_tokens: int | None = None
        self._note = ""
        self._stream = stream or sys.stderr
        self._is_terminal = self._stream.isatty()
        self._clock = clock
        self._started_at = clock()
        self._shown_at = self._stored_at = float("-inf")
        self._lock = threading.Lock()

    def update(
        self,
        *,
        done: int | None = None,
        failed: int | None = None,
        spend_usd: float | None = None,
        spend_tokens: int | None = None,
        note: str | None = None,
    ) -> None:
        """Set totals so far; what is None stays as it is. `done` includes failed units."""
        with self._lock:
            self._done = self._done if done is None else done
            self._failed = self._failed if failed is None else failed
            self._spend_usd = self._spend_usd if spend_usd is None else spend_usd
            self._spend_tokens = self._spend_tokens if spend_tokens is None else spend_tokens
            self._note = self._note if note is None else note
            self._report("running")

    def advance(self, done: int = 1, *, failed: int = 0, spend_usd: float = 0.0) -> None:
        """Add to the totals; `done` includes failed units."""
        with self._lock:
            self._done += done
            self._failed += failed
            if spend_usd:
                self._spend_usd = (self._spend_usd or 0.0) + spend_usd
            self._report("running")

    def record(self, state: ProgressState = "running", reason: str = "") -> ProgressRecord:
        """The counts with rate and ETA as of now."""
        elapsed_s = self._clock() - self._started_at
        fresh = self._done - self._done_before
        rate = fresh / elapsed_s if fresh > 0 and elapsed_s > 0 else None
        left = None if self._total is None else max(self._total - self._done, 0)
        eta_s = left / rate if left is not None and rate and state == "running" else None
        # Earlier attempts' units come with their cost: their answers are read from the ledger.
        is_known = self._total is not None and self._done >= FORECAST_FROM and state == "running"
        scale = (self._total or 0) / self._done if is_known else None
        tokens, usd = self._spend_tokens, self._spend_usd
        return ProgressRecord(
            label=self._label,
            state=state,
            reason=reason,
            done=self._done,
            total=self._total,
            unit=self._unit,
            failed=self._failed,
            spend_usd=usd,
            spend_tokens=tokens,
            forecast_usd=None if usd is None or scale is None else round(usd * scale, 4),
            forecast_tokens=None if tokens is None or scale is None else round(tokens * scale),
            rate_per_s=None if rate is None else round(rate, 3),
            eta_s=None if eta_s is None else round(eta_s, 1),
            elapsed_s=round(elapsed_s, 1),
            note=self._note,
            updated_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def __enter__(self) -> Self:
        with self._lock:
            self._report("running")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            self._shown_at = self._stored_at = float("-inf")
            self._report(*_ending(error))
            if self._is_terminal:
                print(file=self._stream, flush=True)

    def _report(self, state: ProgressState, reason: str = "") -> None:
        now = self._clock()
        show = now - self._shown_at >= (
            _LIVE_LINE_EVERY_S if self._is_terminal else _JSON_LINE_EVERY_S
        )
        store = self._path is not None and now - self._stored_at >= _FILE_EVERY_S
        if not show and not store:
            return
        record = self.record(state, reason)
        if show:
            self._shown_at = now
            self._show(record)
        if store:
            self._stored_at = now
            self._store(record)

    def _show(self, record: ProgressRecord) -> None:
        if self._is_terminal:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\x1b[2K{render_line(record)[:width]}", end="", file=self._stream, flush=True)
        else:
            line = json.dumps({"progress": record.model_dump(mode="json")}, ensure_ascii=False)
            print(line, file=self._stream, flush=True)

    def _store(self, record: ProgressRecord) -> None:
        assert self._path is not None
        # A report that cannot be stored must not end the work it reports on.
        with contextlib.suppress(StorageError):
            storage.write_json(self._path, record.model_dump(mode="json"))


def _ending(error: BaseException | None) -> tuple[ProgressState, str]:
    """State and reason of work that ended with `error`."""
    if error is None:
        return "done", ""
    if isinstance(error, KeyboardInterrupt):
        return "stopped", "interrupted"
    state: ProgressState = "stopped" if isinstance(error, TeacherQuotaError) else "failed"
    return state, f"{type(error).__name__}: {error}"


def read_progress(run_folder: str) -> ProgressRecord | None:
    """The progress a run last stored; None if there is none or it does not parse."""
    path = storage.join(run_folder, PROGRESS_FILE)
    try:
        return ProgressRecord.model_validate(storage.read_json(path))
    except (StorageError, DataError, ValidationError):
        return None


def render_line(record: ProgressRecord) -> str:
    """One line for people: counts, share, rate, ETA, failures, spend, note."""
    of_total = "" if record.total is None else f"/{record.total:,}"
    parts = [f"{record.label}: {record.done:,}{of_total} {record.unit}"]
    if record.total:
        parts.append(f"{100 * record.done / record.total:.0f}%")
    if record.rate_per_s is not None:
        parts.append(f"{record.rate_per_s:.3g}/s")
    if record.eta_s is not None:
        parts.append(f"ETA {format_duration(record.eta_s)}")
    else:
        parts.append(format_duration(record.elapsed_s))
    if record.failed:
        parts.append(f"{record.failed:,} failed")
    if record.spend_usd is not None:
        of_forecast = "" if record.forecast_usd is None else f" of ~${record.forecast_usd:.2f}"
        parts.append(f"${record.spend_usd:.4f}{of_forecast}")
    elif record.spend_tokens:
        of_tokens = "" if record.forecast_tokens is None else f" of ~{record.forecast_tokens:,}"
        parts.append(f"{record.spend_tokens:,}{of_tokens} tokens")
    if record.state in ("stopped", "failed"):
        parts.append(record.state)
    if record.note:
        parts.append(" ".join(record.note.split()))
    return "  ".join(parts)


def format_duration(seconds: float) -> str:
    """`42s`, `3m05s` or `2h07m`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
