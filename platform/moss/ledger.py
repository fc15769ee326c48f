"""Append-only record of every paid request, so that nothing is paid twice.

One JSON line per sold answer, one file per caller, all in one folder. A line is handed to the
operating system before its answer is used, so a killed process loses at most the requests in
flight; files are synced to the disk in groups, which bounds what a power cut can lose. A torn last
line (a kill in mid-write) is skipped: no file is ever written to by a second process.

Not covered here: object storage, which cannot append; the folder must be a local path.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Self

from moss.errors import ConfigError, DataError


@dataclass(frozen=True, slots=True)
class LedgerRecord:
    """One sold answer."""

    key: str
    """sha256 of the request's content, hex; see `content_key`."""
    model: str
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    attempts: int
    """HTTP requests made for it, refused ones included."""


def content_key(endpoint: str, body: dict[str, object], sample: int) -> str:
    """Key of a request: endpoint, everything sent, and the sample number, nothing else.

    Code, data set and row order are left out on purpose: an edited recipe still finds what it paid.
    """
    content = {"endpoint": endpoint, "body": body, "sample": sample}
    canonical = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


class Ledger:
    """Read all files of a folder, append to one of our own.

    Memory is one key and one position per record; texts stay on disk.
    """

    def __init__(self, folder: str, *, sync_interval_s: float = 1.0) -> None:
        if "://" in folder and not folder.startswith("file://"):
            raise ConfigError(
                f"ledger folder {folder} is not on a local disk; object storage cannot append: "
                "set the workspace to a local or shared path"
            )
        self._folder = Path(folder.removeprefix("file://"))
        self._sync_interval_s = sync_interval_s
        self._last_sync = time.monotonic()
        self._paths: list[Path] = sorted(self._folder.glob("*.jsonl"))
        self._readers: dict[int, BinaryIO] = {}
        self._writer: BinaryIO | None = None
        self._positions: dict[bytes, tuple[int, int]] = {}
        for number, path in enumerate(self._paths):
            for offset, record in _scan(path):
                self._positions.setdefault(bytes.fromhex(record.key), (number, offset))

    def __len__(self) -> int:
        return len(self._positions)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def get(self, key: str) -> LedgerRecord | None:
        """The sold answer to a request, or None if it was never sold."""
        position = self._positions.get(bytes.fromhex(key))
        if position is None:
            return None
        number, offset = position
        reader = self._readers.get(number)
        if reader is None:
            reader = self._readers[number] = self._paths[number].open("rb")
        reader.seek(offset)
        return _parse(reader.readline(), self._paths[number])

    def append(self, record: LedgerRecord) -> None:
        """Record a sold answer; returns once the operating system holds the line."""
        writer = self._writer or self._open_writer()
        offset = writer.tell()
        writer.write(json.dumps(asdict(record), ensure_ascii=False).encode() + b"\n")
        writer.flush()
        self._positions[bytes.fromhex(record.key)] = (len(self._paths) - 1, offset)
        if time.monotonic() - self._last_sync >= self._sync_interval_s:
            os.fsync(writer.fileno())
            self._last_sync = time.monotonic()

    def records(self) -> Iterator[LedgerRecord]:
        """Every record on disk, file by file, each key once."""
        seen: set[str] = set()
        for path in self._paths:
            for _, record in _scan(path):
                if record.key not in seen:
                    seen.add(record.key)
                    yield record

    def close(self) -> None:
        """Sync and close."""
        if self._writer is not None:
            os.fsync(self._writer.fileno())
            self._writer.close()
            self._writer = None
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()

    def _open_writer(self) -> BinaryIO:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{time.time_ns():020d}-{os.getpid()}-{uuid.uuid4().hex[:8]}.jsonl"
        self._paths.append(path)
        self._writer = path.open("xb")
        return self._writer


def _scan(path: Path) -> Iterator[tuple[int, LedgerRecord]]:
    offset = 0
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield offset, _parse(line, path)
            offset += len(line)


def _parse(line: bytes, path: Path) -> LedgerRecord:
    try:
        return LedgerRecord(**json.loads(line))
    except (ValueError, TypeError) as error:
        raise DataError(
            f"ledger {path} holds a line that is not a record: {line[:120]!r}; move the file out "
            "of the folder (its requests will be paid again)"
        ) from error
