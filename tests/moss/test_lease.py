import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from moss import storage
from moss.errors import LeaseError
from moss.lease import LEASE_FILE, Lease


@pytest.fixture
def other_controller(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another living process that holds the lease of `tmp_path`."""
    script = (
        "import sys, time\n"
        "from moss.lease import Lease\n"
        "Lease.acquire(sys.argv[1])\n"
        "print('held', flush=True)\n"
        "time.sleep(120)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": "platform"},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def _edit(place: str, **changes: object) -> None:
    path = storage.join(place, LEASE_FILE)
    record = storage.read_json(path)
    assert isinstance(record, dict)
    storage.write_json(path, {**record, **changes})


def test_a_second_controller_is_refused_with_pid_host_and_age(
    tmp_path: Path, other_controller: subprocess.Popen[str]
) -> None:
    said = rf"held by pid {other_controller.pid} on \S+, for \d+ s, last heartbeat \d+ s ago"
    with pytest.raises(LeaseError, match=said):
        Lease.acquire(str(tmp_path))


def test_the_lease_of_a_killed_controller_is_taken_over_at_once(
    tmp_path: Path, other_controller: subprocess.Popen[str]
) -> None:
    other_controller.kill()  # not waited for: a zombie is dead, too
    deadline = time.monotonic() + 10
    while True:
        try:
            Lease.acquire(str(tmp_path)).release()
            break
        except LeaseError:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_the_same_process_is_refused_twice_and_served_after_release(place: str) -> None:
    lease = Lease.acquire(place)
    lease.check()
    with pytest.raises(LeaseError, match=f"held by pid {os.getpid()}"):
        Lease.acquire(place)
    lease.release()
    lease.release()
    assert not storage.exists(storage.join(place, LEASE_FILE))
    Lease.acquire(place).release()


def test_a_holder_elsewhere_counts_as_alive_until_its_heartbeat_expires(place: str) -> None:
    abandoned = Lease.acquire(place, heartbeat_s=1000)
    _edit(place, host="elsewhere", pid=1)
    with pytest.raises(LeaseError, match="held by pid 1 on elsewhere"):
        Lease.acquire(place, expires_s=60)
    _edit(place, heartbeat_at=time.time() - 61)
    taken = Lease.acquire(place, expires_s=60)
    with pytest.raises(LeaseError, match=f"went to pid {os.getpid()}"):
        abandoned.check()
    abandoned.release()
    taken.check()
    taken.release()


def test_a_later_process_with_the_same_pid_is_not_the_holder(place: str) -> None:
    abandoned = Lease.acquire(place, heartbeat_s=1000)
    _edit(place, process_started_at=12345.0)
    taken = Lease.acquire(place)
    taken.release()
    abandoned.release()


def test_the_heartbeat_goes_on_and_stops_when_the_lease_is_lost(place: str) -> None:
    path = storage.join(place, LEASE_FILE)
    lease = Lease.acquire(place, heartbeat_s=0.02)
    first = storage.read_bytes(path)
    deadline = time.monotonic() + 10
    while storage.read_bytes(path) == first:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    record = json.loads(first)
    storage.write_json(path, {**record, "token": "taker", "host": "elsewhere", "pid": 7})
    time.sleep(0.2)
    held = storage.read_json(path)
    if isinstance(held, dict) and held["token"] == record["token"]:
        pytest.skip("a heartbeat was in flight and there is no lock on this file system")
    with pytest.raises(LeaseError, match=re.escape("went to pid 7 on elsewhere")):
        lease.check()
    lease.release()
    assert storage.exists(path), "a lost lease is not removed by the loser"


def test_of_many_at_once_one_gets_the_lease(tmp_path: Path) -> None:
    got: list[Lease] = []
    refused: list[LeaseError] = []
    barrier = threading.Barrier(8)

    def try_it() -> None:
        barrier.wait()
        try:
            got.append(Lease.acquire(str(tmp_path)))
        except LeaseError as error:
            refused.append(error)

    threads = [threading.Thread(target=try_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 7)
    got[0].release()


def test_a_lease_file_that_is_none_is_named(place: str) -> None:
    storage.write_text(storage.join(place, LEASE_FILE), "{}")
    with pytest.raises(LeaseError, match=r"(?s)is not a lease.*delete that file"):
        Lease.acquire(place)
