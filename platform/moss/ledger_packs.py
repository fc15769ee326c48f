"""Large ledger files with a sorted index beside them, and how many small files become one.

A pack is `<name>.jsonl` with `<name>.index`: a JSON line (entries, bill, replaced files),
then 24 bytes per entry in ascending order: the first 16 bytes of the key and the line's offset. A
local index is mapped, not read, so that two million entries cost a process no memory of its own
and all callers of a node share one copy; a remote one is fetched whole.

A pack counts from the moment its index exists. Its data is written and synced before, and the
files it replaces are deleted after; a crash in between leaves files that the next compaction drops.
"""

from __future__ import annotations

import json
import mmap
import struct
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from moss import storage
from moss.errors import DataError
from moss.ledger_lines import Bill, Scan

DATA = ".jsonl"
INDEX = ".index"
MERGED = "pack-"
"""First part of the name of a merged file: without an index it is a torn merge, and no data."""
PREFIX_BYTES = 16
"""Bytes of a key that the index keeps; the line itself holds the whole key."""
_ROW = struct.Struct(">16sQ")


@dataclass(frozen=True, slots=True)
class Pack:
    """An indexed file."""

    name: str
    """Without folder and ending."""
    bill: Bill
    replaces: tuple[str, ...]
    """Files that this pack holds the content of, named likewise; readers pass over them."""
    rows: bytes | mmap.mmap
    start: int
    """Offset of the first row."""
    num_entries: int

    def find(self, key: bytes) -> int | None:
        """Offset of the line whose key begins like `key`."""
        wanted = key[:PREFIX_BYTES]
        low, high = 0, self.num_entries
        while low < high:
            middle = (low + high) // 2
            if self._prefix(middle) < wanted:
                low = middle + 1
            else:
                high = middle
        if low < self.num_entries and self._prefix(low) == wanted:
            return int(_ROW.unpack_from(self.rows, self.start + low * _ROW.size)[1])
        return None

    def _prefix(self, number: int) -> bytes:
        at = self.start + number * _ROW.size
        return self.rows[at : at + PREFIX_BYTES]


class IndexBuilder:
    """Collects entries, 24 bytes each, and writes them sorted."""

    def __init__(self) -> None:
        self._rows = bytearray()

    def __len__(self) -> int:
        return len(self._rows) // _ROW.size

    def add(self, key: bytes, offset: int) -> None:
        """One entry."""
        self._rows += _ROW.pack(key[:PREFIX_BYTES], offset)

    def write(self, path: str, *, bill: Bill, replaces: Iterable[str]) -> None:
        """Write the index file, atomically."""
        import numpy as np

        rows = np.frombuffer(self._rows, dtype=[("high", ">u8"), ("low", ">u8"), ("at", ">u8")])
        order = np.lexsort((rows["at"], rows["low"], rows["high"]))
        header = {"entries": len(self), **asdict(bill), "replaces": sorted(replaces)}
        line = json.dumps(header).encode() + b"\n"
        storage.write_bytes(path, line + rows[order].tobytes())


def open_pack(folder: str, name: str) -> Pack:
    """Map (or fetch) the index of a pack.

    Raises:
        DataError: the index is not one.
        StorageError: it is gone.
    """
    path = storage.join(folder, name + INDEX)
    rows: bytes | mmap.mmap
    if storage.is_remote(folder):
        rows = storage.read_bytes(path)
    else:
        with storage.open_binary(path) as file:
            rows = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    start = rows.find(b"\n") + 1
    try:
        header = json.loads(rows[:start])
        pack = Pack(
            name=name,
            # Older indexes hold totals alone; what they index is paid for, and must stay readable.
            bill=Bill(header["totals"], header.get("charges", {}), header.get("in_flight", {})),
            replaces=tuple(header["replaces"]),
            rows=rows,
            start=start,
            num_entries=int(header["entries"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{path} is not a ledger index; delete it, it will be made anew") from error
    if len(rows) != start + pack.num_entries * _ROW.size:
        raise DataError(f"{path} is torn; delete it, it will be made anew")
    return pack


def write_pack(folder: str, name: str, sources: Iterable[tuple[str, Pack | None]]) -> None:
    """Copy the answers of `sources` (file name, its pack if it has one) into one pack.

    The sources stay; the caller deletes them once this has returned.
    """
    bill, scan = Bill(), Scan()
    index = IndexBuilder()
    replaces: set[str] = set()
    offset = 0
    # Local also when the ledger is not: an object is put whole, and may exceed memory until then.
    target = tempfile.gettempdir() if storage.is_remote(folder) else folder
    temporary = Path(target) / f"{name}{storage.TEMPORARY_MARK}{DATA}"
    try:
        with temporary.open("wb") as data:
            for source, pack in sources:
                replaces.add(source)
                counted = scan if pack is None else Scan()
                for _, key, line in iterate_lines(folder, source, counted):
                    index.add(key, offset)
                    offset += data.write(line)
                if pack is not None:
                    bill.add(pack.bill)
        storage.put_file(temporary, storage.join(folder, name + DATA))
    finally:
        temporary.unlink(missing_ok=True)
    bill.add(scan.bill())
    index.write(storage.join(folder, name + INDEX), bill=bill, replaces=replaces)


@dataclass(frozen=True, slots=True)
class Listing:
    """The data files of a ledger, without folder and ending."""

    packs: list[str]
    loose: list[str]
    """Without an index."""
    torn: list[str]
    """Merges that were killed; their sources are still there."""


def list_ledger(folder: str) -> Listing:
    """What a ledger's folder holds."""
    present = set(storage.list_files(folder))
    data = sorted(name.removesuffix(DATA) for name in present if name.endswith(DATA))
    bare = [name for name in data if name + INDEX not in present]
    return Listing(
        packs=[name for name in data if name + INDEX in present],
        loose=[name for name in bare if not name.startswith(MERGED)],
        torn=[name for name in bare if name.startswith(MERGED)],
    )


def iterate_lines(folder: str, name: str, scan: Scan) -> Iterator[tuple[int, bytes, bytes]]:
    """(offset, key, line) of the answers of one data file."""
    with storage.open_binary(storage.join(folder, name + DATA)) as lines:
        yield from scan.answers(name, lines)
