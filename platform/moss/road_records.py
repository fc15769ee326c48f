"""What a road leaves on this machine so that it can be found again: its lock and its processes.

A process is known by its pid *and* its start time, so that a record that outlived its process never
ends somebody else's.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

import psutil

from moss import storage
from moss.errors import LeaseError


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """A process that a road started."""

    pid: int
    started_at_s: float
    """Unix time at which the operating system started it."""
    url: str = ""
    """Where it answers, if it is a server."""

    @classmethod
    def of(cls, pid: int, url: str = "") -> Self:
        """Record of a living process."""
        return cls(pid, psutil.Process(pid).create_time(), url)

    def process(self) -> psutil.Process | None:
        """The living process; None if it ended, though its pid may be in use again."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started_at_s) < 0.01
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None

    def end(self, *, timeout_s: float = 20.0, with_children: bool = True) -> bool:
        """End the process: SIGTERM, then SIGKILL after `timeout_s`.

        Args:
            with_children: end all that it started too; not for one that ends them itself.

        Returns: False if it had already ended.
        """
        process = self.process()
        if process is None:
            return False
        try:
            family = [process, *(process.children(recursive=True) if with_children else ())]
        except psutil.NoSuchProcess:
            return False
        for member in family:
            _signal(member, kill=False)
        _, alive = psutil.wait_procs(family, timeout=timeout_s)
        for member in alive:
            _signal(member, kill=True)
        psutil.wait_procs(alive, timeout=timeout_s)
        return True


class ProcessRecords:
    """`processes.json` of a road: name -> record. One owner at a time, the holder of the lock."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "processes.json"

    def load(self) -> dict[str, ProcessRecord]:
        """Every record, those of ended processes included; empty if none was written."""
        if not self.path.is_file():
            return {}
        data = storage.read_json(str(self.path))
        assert isinstance(data, dict), "only this class writes the file"
        return {name: ProcessRecord(**fields) for name, fields in data.items()}

    def add(self, name: str, record: ProcessRecord) -> None:
        """Write a record, replacing the one of that name."""
        self._save({**self.load(), name: record})

    def remove(self, name: str) -> None:
        """Forget a record."""
        self._save({key: value for key, value in self.load().items() if key != name})

    def _save(self, records: Mapping[str, ProcessRecord]) -> None:
        fields = {
            name: {"pid": item.pid, "started_at_s": item.started_at_s, "url": item.url}
            for name, item in records.items()
        }
        storage.write_json(str(self.path), fields)


class RoadLock:
    """One road at a time in a workspace; the operating system frees the lock of a killed one.

    Raises (on entering):
        LeaseError: another road of this machine works in the workspace; names its pid.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "lock"
        self._file: IO[str] | None = None

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self.path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = self.holder()
            file.close()
            raise LeaseError(
                f"another road (pid {holder or 'unknown'}) works in {self.path.parent.parent}; "
                "wait for it, end it, or give another --workspace"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        self._file = file
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.truncate(0)
            self._file.close()

    def holder(self) -> int | None:
        """Pid that the lock file names; None if it is free."""
        text = self.path.read_text(encoding="utf-8").strip() if self.path.is_file() else ""
        return int(text) if text.isdigit() else None


def record_folder(workspace: str, run_id: str, road: str) -> Path:
    """Local folder of a road's records: inside a local workspace, else in the user's cache."""
    if storage.is_remote(workspace):
        return Path.home() / ".cache" / "moss" / "roads" / road
    return Path(storage.absolute(workspace)) / run_id


def _signal(process: psutil.Process, *, kill: bool) -> None:
    try:
        process.kill() if kill else process.terminate()
    except psutil.NoSuchProcess:
        return
