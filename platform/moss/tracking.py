"""Metrics of a run: `metrics.jsonl` for programs, TensorBoard events for people, and services.

One JSON object a line: `{"step": 3, "time": "...", "metrics": {"train/loss_nats": 2.1}}`. A value
that is not finite is stored as the string `"nan"`, `"inf"` or `"-inf"`, so a diverged loss is on
record and every line is valid JSON.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from moss import storage
from moss.errors import DataError
from moss.metrics import check_name
from moss.tracking_services import Service

if TYPE_CHECKING:
    from moss.tensorboard_events import EventWriter

METRICS_FILE = "metrics.jsonl"
_REMOTE_LINES_PER_WRITE = 50


class Tracker:
    """Writes a run's metrics step by step; one per run.

    A resumed run passes `resume_step`, the step of the training state it goes on from: lines of
    later steps are dropped, since they will be made again. A line torn by a kill is dropped too.
    Object stores cannot append, so there the file is written anew every 50 lines and at `close`,
    and there are no TensorBoard events.

    Args:
        run_folder: folder of the run.
        resume_step: last step whose lines stay; None keeps all, 0 keeps none but step 0.
        tensorboard: whether to write events to `<run>/tensorboard/`.
        services: what else gets every metric and text; closed with the tracker.
    """

    def __init__(
        self,
        run_folder: str,
        *,
        resume_step: int | None = None,
        tensorboard: bool = True,
        services: Sequence[Service] = (),
    ) -> None:
        self._services = tuple(services)
        self._path = storage.join(run_folder, METRICS_FILE)
        self._lines = [
            json.dumps(line)
            for line in read_json_lines(self._path)
            if resume_step is None or _step_of(line) <= resume_step
        ]
        self._unwritten = 0
        self._rewrite()
        self._file: TextIO | None = None
        self._events: EventWriter | None = None
        if not storage.is_remote(run_folder):
            self._lines.clear()
            self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115  closed by close()
            if tensorboard:
                self._events = _event_writer(storage.join(run_folder, "tensorboard"))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record the metrics of one step.

        Raises:
            DataError: a name that is not `stage/quantity_unit`.
        """
        for name in metrics:
            check_name(name)
        stored = {name: _storable(float(value)) for name, value in metrics.items()}
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"step": step, "time": now, "metrics": stored})
        if self._file is not None:
            print(line, file=self._file, flush=True)
        else:
            self._lines.append(line)
            self._unwritten += 1
            if self._unwritten >= _REMOTE_LINES_PER_WRITE:
                self._rewrite()
        if self._events is not None:
            for name, value in metrics.items():
                self._events.add_scalar(name, float(value), step)
        for service in self._services:
            service.log(step, metrics)

    def log_text(self, step: int, tag: str, markdown: str) -> None:
        """Show a table or other text to people: in TensorBoard and the services, not on disk."""
        if self._events is not None:
            self._events.add_text(tag, markdown, step)
        for service in self._services:
            service.log_text(step, tag, markdown)

    def close(self) -> None:
        """Write what is held back and close the files; calling it twice does no harm."""
        if self._events is not None:
            self._events.close()
            self._events = None
        for service in self._services:
            service.close()
        self._services = ()
        if self._file is not None:
            if not self._file.closed:
                self._file.flush()
                os.fsync(self._file.fileno())
            self._file.close()
        elif self._unwritten:
            self._rewrite()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _rewrite(self) -> None:
        storage.write_text(self._path, "".join(f"{line}\n" for line in self._lines))
        self._unwritten = 0


def read_metrics(run_folder: str) -> list[tuple[int, dict[str, float]]]:
    """(step, metrics) of every whole line of a run; empty if it has logged nothing."""
    return [
        (_step_of(line), {name: float(value) for name, value in _metrics_of(line).items()})
        for line in read_json_lines(storage.join(run_folder, METRICS_FILE))
    ]


def read_json_lines(path: str) -> list[dict[str, object]]:
    """Every whole line of a file of JSON objects; empty if it is absent.

    Raises:
        DataError: a line that is not JSON, but for one torn by a kill at the end.
    """
    if not storage.exists(path):
        return []
    text = storage.read_bytes(path).decode("utf-8", errors="replace")
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()  # torn by a kill while it was appended
    try:
        return [json.loads(line) for line in lines]
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path} holds a line that is not JSON ({error}); was it edited?"
        ) from error


def _step_of(line: Mapping[str, object]) -> int:
    step = line.get("step")
    if not isinstance(step, int):
        raise DataError(f"a line of {METRICS_FILE} has step={step!r}, expected a number")
    return step


def _metrics_of(line: Mapping[str, object]) -> dict[str, float | str]:
    metrics = line.get("metrics")
    if not isinstance(metrics, dict):
        raise DataError(f"a line of {METRICS_FILE} has metrics={metrics!r}, expected a mapping")
    return metrics


def _storable(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _event_writer(folder: str) -> EventWriter:
    from moss.tensorboard_events import EventWriter  # slow to import

    return EventWriter(folder)
