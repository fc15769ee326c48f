"""Locks and process records with real processes."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from moss.errors import LeaseError
from moss.road_records import ProcessRecord, ProcessRecords, RoadLock, record_folder

SLEEPER = [sys.executable, "-c", "import time; time.sleep(60)"]


def test_a_second_road_in_the_same_workspace_is_refused_by_pid(tmp_path: Path) -> None:
    with (
        RoadLock(tmp_path / "road"),
        pytest.raises(LeaseError, match=f"pid {os.getpid()}"),
        RoadLock(tmp_path / "road"),
    ):
        pass
    with RoadLock(tmp_path / "road") as lock:
        assert lock.holder() == os.getpid()
    assert lock.holder() is None


def test_the_lock_of_a_killed_road_is_free(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from moss.road_records import RoadLock\n"
        "with RoadLock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(LeaseError, match=f"pid {holder.pid}"), RoadLock(tmp_path):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait(timeout=10)
    with RoadLock(tmp_path):
        pass


def test_ending_a_process_ends_its_children_and_only_once(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess; subprocess.run({SLEEPER!r})"]
    )
    record = ProcessRecord.of(parent.pid)
    process = record.process()
    assert process is not None
    deadline = time.monotonic() + 20
    while not (children := process.children()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert record.end(timeout_s=10)
    assert not any(child.is_running() for child in children)
    parent.wait(timeout=10)
    assert not record.end()


def test_a_pid_that_is_in_use_again_is_left_alone() -> None:
    other = subprocess.Popen(SLEEPER)
    stale = dataclasses.replace(ProcessRecord.of(other.pid), started_at_s=12345.0)
    assert stale.process() is None
    assert not stale.end()
    assert other.poll() is None
    other.kill()
    other.wait(timeout=10)


def test_records_are_read_back_and_forgotten(tmp_path: Path) -> None:
    records = ProcessRecords(tmp_path)
    mine = ProcessRecord.of(os.getpid(), url="http://127.0.0.1:1/v1")
    records.add("teacher", mine)
    assert ProcessRecords(tmp_path).load() == {"teacher": mine}
    records.remove("teacher")
    assert records.load() == {}


def test_records_of_a_remote_workspace_stay_on_this_machine() -> None:
    assert record_folder("s3://bucket/runs", "road", "road-ab").is_relative_to(Path.home())
    assert record_folder("/data/runs", "road", "road-ab") == Path("/data/runs/road")
