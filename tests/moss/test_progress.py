import io
import json
import threading
from contextlib import suppress

import pytest

from moss import storage
from moss.errors import BudgetError, TeacherQuotaError
from moss.progress import Progress, format_duration, read_progress, render_line


class Clock:
    """Seconds that move only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_rate_and_eta_come_from_this_attempt_alone() -> None:
    clock = Clock()
    progress = Progress("stage", 100, done_before=40, stream=io.StringIO(), clock=clock)
    assert progress.record().rate_per_s is None
    clock.now += 10
    progress.update(done=60, failed=3, spend_usd=0.25)
    record = progress.record()
    assert (record.rate_per_s, record.eta_s, record.done, record.failed) == (2.0, 20.0, 60, 3)
    assert record.spend_usd == 0.25


def test_a_terminal_gets_one_line_that_is_rewritten() -> None:
    clock, stream = Clock(), Terminal()
    with Progress("stage", 4, "steps", stream=stream, clock=clock) as progress:
        for step in range(4):
            clock.now += 1
            progress.update(done=step + 1, note="loss 2.1\nmore")
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert text.endswith("\n")
    assert "\r" in text
    assert "stage: 4/4 steps  100%  1/s" in text
    assert "loss 2.1 more" in text


def test_elsewhere_json_lines_come_at_most_every_two_seconds() -> None:
    clock, stream = Clock(), io.StringIO()
    with Progress("stage", 100, stream=stream, clock=clock) as progress:
        for step in range(100):
            clock.now += 0.1
            progress.update(done=step + 1)
    lines = [json.loads(line)["progress"] for line in stream.getvalue().splitlines()]
    assert 5 <= len(lines) <= 7
    assert (lines[0]["done"], lines[0]["state"]) == (0, "running")
    assert (lines[-1]["done"], lines[-1]["state"]) == (100, "done")


def test_the_run_folder_tells_how_far_it_is(place: str) -> None:
    assert read_progress(place) is None
    with Progress("stage", 2, run_folder=place, stream=io.StringIO()) as progress:
        progress.update(done=1, spend_usd=0.5)
        stored = read_progress(place)
        assert stored is not None
        assert stored.state == "running"
    stored = read_progress(place)
    assert stored is not None
    assert (stored.state, stored.done, stored.spend_usd) == ("done", 1, 0.5)


def test_failed_work_is_stored_as_failed_and_a_torn_file_is_no_progress(place: str) -> None:
    with (
        pytest.raises(RuntimeError),
        Progress("stage", 2, run_folder=place, stream=io.StringIO()),
    ):
        raise RuntimeError("the disk is full")
    stored = read_progress(place)
    assert stored is not None
    assert stored.state == "failed"
    assert stored.reason == "RuntimeError: the disk is full"
    storage.write_text(storage.join(place, "progress.json"), '{"label": ')
    assert read_progress(place) is None


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (BudgetError("cap is 100"), "BudgetError: cap is 100"),
        (TeacherQuotaError("no credit"), "TeacherQuotaError: no credit"),
        (KeyboardInterrupt(), "interrupted"),
    ],
)
def test_what_goes_on_when_asked_is_stopped_with_its_reason(
    place: str, error: BaseException, reason: str
) -> None:
    stream = io.StringIO()
    with suppress(type(error)), Progress("stage", 2, run_folder=place, stream=stream):
        raise error
    stored = read_progress(place)
    assert stored is not None
    assert (stored.state, stored.reason) == ("stopped", reason)
    assert render_line(stored).endswith("stopped")


def test_an_unwritable_folder_does_not_end_the_work(tmp_path: object) -> None:
    storage.write_text(f"{tmp_path}/file", "in the way")
    with Progress("stage", run_folder=f"{tmp_path}/file", stream=io.StringIO()) as progress:
        progress.update(done=1)
    assert progress.record().done == 1


def test_many_threads_advance_without_losing_a_count() -> None:
    progress = Progress("stage", 4000, stream=io.StringIO())

    def work() -> None:
        for _ in range(500):
            progress.advance(failed=1, spend_usd=0.5)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    record = progress.record()
    assert (record.done, record.failed, record.spend_usd) == (4000, 4000, 2000.0)


def test_the_line_says_counts_rate_eta_failures_and_spend() -> None:
    clock = Clock()
    progress = Progress("stage", 5000, stream=io.StringIO(), clock=clock)
    clock.now += 10
    progress.update(done=1200, failed=3, spend_usd=0.12)
    said = "stage: 1,200/5,000 rows  24%  120/s  ETA 32s  3 failed  $0.1200 of ~$0.50"
    assert render_line(progress.record()) == said
    endless = Progress("stage", unit="calls", stream=io.StringIO(), clock=clock)
    assert render_line(endless.record()) == "stage: 0 calls  0s"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (59.6, "1m00s"), (185, "3m05s"), (7620, "2h07m")]
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_cost_is_forecast_once_fifty_units_are_done() -> None:
    progress = Progress("stage", 1000, stream=io.StringIO(), clock=Clock())
    progress.update(done=49, spend_usd=0.49, spend_tokens=4900)
    assert progress.record().forecast_usd is None
    progress.update(done=50, spend_usd=0.5, spend_tokens=5000)
    record = progress.record()
    assert (record.forecast_usd, record.forecast_tokens) == (10.0, 100_000)
    assert "$0.5000 of ~$10.00" in render_line(record)


def test_without_prices_tokens_are_forecast_and_without_a_total_nothing() -> None:
    priced = Progress("stage", 1000, stream=io.StringIO(), clock=Clock())
    priced.update(done=100, spend_tokens=5000)
    assert "5,000 of ~50,000 tokens" in render_line(priced.record())
    open_end = Progress("stage", None, stream=io.StringIO(), clock=Clock())
    open_end.update(done=100, spend_tokens=5000)
    assert open_end.record().forecast_tokens is None
