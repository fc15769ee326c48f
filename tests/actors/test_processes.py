"""Only processes that are provably ours are found and ended."""

import os
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from actors.ports import free_ports
from actors.processes import end_head_and_members, marked_processes, same_process

MARKER = "MOSS_TEST_MARKER"
SLEEP = "import time; time.sleep(120)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True)\n"


def spawn(marker: str, code: str = SLEEP) -> subprocess.Popen[bytes]:
    environment = {**os.environ, MARKER: marker}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE)


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    process = spawn("another cluster's")
    yield process
    process.kill()
    process.wait()


def test_a_pid_with_another_start_time_is_another_process(
    bystander: subprocess.Popen[bytes],
) -> None:
    created_s = psutil.Process(bystander.pid).create_time()
    assert same_process(bystander.pid, created_s) is not None
    assert same_process(bystander.pid, created_s - 100.0) is None


def test_an_ended_process_is_nobody() -> None:
    process = spawn("x")
    created_s = psutil.Process(process.pid).create_time()
    process.kill()
    assert same_process(process.pid, created_s) is None or process.wait(10) is not None
    assert same_process(process.pid, created_s) is None


def test_only_marked_processes_are_ended(bystander: subprocess.Popen[bytes]) -> None:
    members = [spawn("ours"), spawn("ours")]
    assert {process.pid for process in marked_processes(MARKER, "ours")} == {
        process.pid for process in members
    }
    assert end_head_and_members(None, lambda: marked_processes(MARKER, "ours"), timeout_s=10)
    assert all(process.poll() is not None for process in members)
    assert bystander.poll() is None


def test_a_head_that_ignores_the_request_is_killed_after_the_timeout() -> None:
    head = spawn("deaf", DEAF + SLEEP)
    assert head.stdout is not None
    head.stdout.readline()  # it ignores SIGTERM from here on
    process = psutil.Process(head.pid)
    assert end_head_and_members(process, list, timeout_s=0.5)
    assert not process.is_running()


def test_nothing_to_end_is_said_so() -> None:
    assert not end_head_and_members(None, lambda: marked_processes(MARKER, "none"), timeout_s=1)


def test_free_ports_are_all_different() -> None:
    names = [f"port-{index}" for index in range(50)]
    ports = free_ports(names)
    assert list(ports) == names
    assert len(set(ports.values())) == len(names)
