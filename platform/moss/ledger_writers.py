"""How lines get into a ledger: appended to a local file, or put as small objects in groups.

Both hand a line on before its answer is used, so a killed process loses at most the requests in
flight. What a power cut can take from a local file is bounded by grouped syncs.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from moss import storage
from moss.errors import StorageError
from moss.ledger_packs import DATA

SYNC_INTERVAL_S = 1.0
GROUP_S = 0.25
"""How long lines are collected for one object; a row waits so much longer, its slot does not."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a line lies."""

    name: str
    """Data file, without ending."""
    offset: int


class Writer(Protocol):
    """Appends lines for one caller."""

    def append(self, line: bytes) -> Position:
        """Returns once the line survives this process."""

    async def store(self, line: bytes) -> Position:
        """The same; may wait for others to be written together with it."""

    def close(self) -> None:
        """Sync and close."""


def new_writer() -> str:
    """Unique name of a writer."""
    return f"{os.getpid()}-{uuid.uuid4().hex[:8]}"


def new_name(writer: str) -> str:
    """Name of a writer's next data file; names sort by age."""
    return f"{time.time_ns():020d}-{writer}"


class FileWriter:
    """One local file, locked while its writer lives, so that no compaction takes it away."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name = new_name(new_writer())
        self._descriptor = os.open(
            folder / (self.name + DATA), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644
        )
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        self._size = 0
        self._synced_at = time.monotonic()
        self._syncing: asyncio.Future[None] | None = None

    def append(self, line: bytes) -> Position:
        """Hand the line to the operating system."""
        offset = self._size
        written = 0
        while written < len(line):
            written += os.write(self._descriptor, line[written:])
        self._size += written
        if time.monotonic() - self._synced_at >= SYNC_INTERVAL_S and self._syncing is None:
            self._sync()
        return Position(self.name, offset)

    async def store(self, line: bytes) -> Position:
        """Hand the line to the operating system; the disk is synced beside the event loop."""
        if self._syncing is None and time.monotonic() - self._synced_at >= SYNC_INTERVAL_S:
            loop = asyncio.get_running_loop()
            self._syncing = loop.run_in_executor(None, self._sync)
            self._syncing.add_done_callback(self._synced)
        return self.append(line)

    def close(self) -> None:
        """Sync and close; the lock goes with it."""
        self._sync()
        os.close(self._descriptor)

    def _sync(self) -> None:
        self._synced_at = time.monotonic()
        os.fsync(self._descriptor)

    def _synced(self, done: asyncio.Future[None]) -> None:
        self._syncing = None
        done.exception()  # a disk that fails shows at the next write


class ObjectWriter:
    """Immutable objects, each a group of lines, for storage that cannot append."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._writer = new_writer()
        self._lines: list[bytes] = []
        self._size = 0
        self._group: asyncio.Future[str] | None = None

    def append(self, line: bytes) -> Position:
        """Put the line as an object of its own."""
        return Position(self._put(line), 0)

    async def store(self, line: bytes) -> Position:
        """Wait for the group that holds the line to be put.

        Raises:
            StorageError: the storage refused it.
        """
        if self._group is None:
            self._group = asyncio.ensure_future(self._put_group())
        offset = self._size
        self._lines.append(line)
        self._size += len(line)
        return Position(await asyncio.shield(self._group), offset)

    def close(self) -> None:
        """Put what still waits."""
        if self._lines:
            self._put(b"".join(self._take()))

    async def _put_group(self) -> str:
        await asyncio.sleep(GROUP_S)
        self._group = None
        return await asyncio.to_thread(self._put, b"".join(self._take()))

    def _take(self) -> list[bytes]:
        lines, self._lines, self._size = self._lines, [], 0
        return lines

    def _put(self, data: bytes) -> str:
        name = new_name(self._writer)
        storage.write_bytes(storage.join(self._folder, name + DATA), data)
        return name


def open_writer(folder: str) -> FileWriter | ObjectWriter:
    """The writer that fits the folder's storage.

    Raises:
        StorageError: a local folder cannot be written.
    """
    if storage.is_remote(folder):
        return ObjectWriter(folder)
    path = Path(storage.absolute(folder))
    try:
        return FileWriter(path)
    except OSError as error:
        raise StorageError(f"cannot write the ledger in {path}: {error}") from error


def is_being_written(path: Path) -> bool:
    """Whether a living process holds the file, or may be about to (an empty file)."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return os.fstat(file.fileno()).st_size == 0
    except FileNotFoundError:
        return False
    except OSError:  # held, or a file system without locks, where nobody can tell
        return True
