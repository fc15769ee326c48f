"""One controller per run: a lease with a heartbeat in the run folder.

Its holder rewrites `lease.json` every few seconds. A lease is free when it is absent, when its
process is gone from this host, or when its last heartbeat is older than `expires_s` (a machine that
vanished). Ages compare the clocks of two hosts, so these must agree within `expires_s`.

Locally a file lock makes taking the lease exclusive. An object store has no such lock: there two
controllers that start within one round trip of each other may both believe to hold the lease, and
the one that wrote first stops at its next `check`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from moss import storage
from moss.config.base import Config
from moss.errors import DataError, LeaseError, StorageError

LEASE_FILE = "lease.json"
LOCK_FILE = ".lease.lock"
_CLOCK_TOLERANCE_S = 2.0


class LeaseRecord(Config):
    """Contents of `lease.json`. Times are seconds since the epoch, on the holder's clock."""

    token: str
    """Random; tells two leases of one process apart."""
    host: str
    pid: int
    process_started_at: float
    """Tells the holder from a later process with its pid."""
    acquired_at: float
    heartbeat_at: float


class Lease:
    """The right to write into a run folder; heartbeats on a thread of its own until `release`."""

    def __init__(self, folder: str, record: LeaseRecord, *, heartbeat_s: float) -> None:
        self._folder = folder
        self._path = storage.join(folder, LEASE_FILE)
        self._record = record
        self._lost_to: LeaseRecord | None = None
        self._released = threading.Event()
        self._thread = threading.Thread(
            target=self._beat, args=(heartbeat_s,), name=f"lease {folder}", daemon=True
        )
        self._thread.start()

    @classmethod
    def acquire(cls, folder: str, *, heartbeat_s: float = 10.0, expires_s: float = 120.0) -> Lease:
        """Take the lease of a run folder.

        Raises:
            LeaseError: a living controller holds it; names its pid, host, start and last heartbeat.
        """
        now = time.time()
        record = LeaseRecord(
            token=secrets.token_hex(8),
            host=socket.gethostname(),
            pid=os.getpid(),
            process_started_at=_process_start(os.getpid()) or now,
            acquired_at=now,
            heartbeat_at=now,
        )
        path = storage.join(folder, LEASE_FILE)
        with _exclusive(folder):
            holder = _read(path)
            if holder is not None and _is_alive(holder, expires_s=expires_s):
                raise LeaseError(_refusal(folder, holder, expires_s=expires_s))
            storage.write_json(path, record.model_dump(mode="json"))
        winner = _read(path)
        if winner is None or winner.token != record.token:
            raise LeaseError(
                f"another controller took run {folder} at the same moment; "
                "wait for it to finish, or end it and run again"
            )
        return cls(folder, record, heartbeat_s=heartbeat_s)

    def check(self) -> None:
        """Raise LeaseError if another controller has taken the run meanwhile."""
        holder = self._lost_to or _read(self._path)
        if holder is None or holder.token != self._record.token:
            taker = f"pid {holder.pid} on {holder.host}" if holder else "someone who removed it"
            raise LeaseError(
                f"the lease of run {self._folder} went to {taker} while this controller (pid "
                f"{self._record.pid}) was silent; nothing more is written here, leave it to them"
            )

    def release(self) -> None:
        """Stop the heartbeat and give the lease back; calling it twice does no harm."""
        if self._released.is_set():
            return
        self._released.set()
        self._thread.join()
        with _exclusive(self._folder):
            holder = _read(self._path)
            if holder is not None and holder.token == self._record.token:
                storage.remove(self._path)

    def _beat(self, heartbeat_s: float) -> None:
        while not self._released.wait(heartbeat_s):
            # A write that fails is tried again at the next beat: if none gets through until the
            # lease expires, the taker's record is found there and `check` reports it.
            with contextlib.suppress(StorageError), _exclusive(self._folder):
                holder = _read(self._path)
                if holder is None or holder.token != self._record.token:
                    self._lost_to = holder
                    return
                fresh = self._record.model_copy(update={"heartbeat_at": time.time()})
                storage.write_json(self._path, fresh.model_dump(mode="json"))


@contextlib.contextmanager
def _exclusive(folder: str) -> Iterator[None]:
    if storage.is_remote(folder):
        yield
        return
    local = Path(folder)
    try:
        local.mkdir(parents=True, exist_ok=True)
        lock = (local / LOCK_FILE).open("a")
    except OSError as error:
        raise StorageError(
            f"cannot make the folder {folder}: {error}; check --workspace and its permissions"
        ) from error
    with lock as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _read(path: str) -> LeaseRecord | None:
    if not storage.exists(path):
        return None
    try:
        return LeaseRecord.model_validate(storage.read_json(path))
    except StorageError:
        return None  # released between the two calls
    except (DataError, ValidationError) as error:
        raise LeaseError(
            f"{path} is not a lease ({error}); if no controller runs there, delete that file"
        ) from error


def _is_alive(holder: LeaseRecord, *, expires_s: float) -> bool:
    if time.time() - holder.heartbeat_at > expires_s:
        return False
    if holder.host != socket.gethostname():
        return True
    started = _process_start(holder.pid)
    return started is not None and abs(started - holder.process_started_at) < _CLOCK_TOLERANCE_S


def _process_start(pid: int) -> float | None:
    """When a process of this host started, seconds since the epoch; None if it is gone."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.NoSuchProcess:
        return None


def _refusal(folder: str, holder: LeaseRecord, *, expires_s: float) -> str:
    now = time.time()
    return (
        f"run {folder} is held by pid {holder.pid} on {holder.host}, for "
        f"{now - holder.acquired_at:.0f} s, last heartbeat {now - holder.heartbeat_at:.0f} s ago; "
        f"wait for it to finish or end that process, then run again (a silent holder is replaced "
        f"after {expires_s:.0f} s)"
    )
