"""Append-only record of every paid request, so that nothing is paid twice.

One JSON line per sold answer, one writer per caller, all in one folder, local or on object
storage. A line is handed on before its answer is used. A torn last line (a kill in mid-write) is
skipped: no file is ever written to by a second process.

Memory is bounded whatever the ledger holds: files of finished callers are packs with an index that
is mapped, and a writer turns its own file into a pack every `seal_entries` entries.
`moss.ledger_compaction` makes few packs of many files; a run does so before it starts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, Self

from moss import storage
from moss.errors import StorageError
from moss.ledger_lines import Bill as Bill
from moss.ledger_lines import Charge as Charge
from moss.ledger_lines import LedgerRecord as LedgerRecord
from moss.ledger_lines import (
    Scan,
    Totals,
    charge_line,
    parse_record,
    record_line,
    sent_line,
    unsold_line,
)
from moss.ledger_lines import content_key as content_key
from moss.ledger_packs import (
    DATA,
    INDEX,
    PREFIX_BYTES,
    IndexBuilder,
    Pack,
    iterate_lines,
    list_ledger,
    open_pack,
)
from moss.ledger_writers import (
    FileWriter,
    ObjectWriter,
    Position,
    open_writer,
)

SEAL_ENTRIES = 100_000
_READ_BYTES = 1 << 16
_LIST_ATTEMPTS = 5


class Ledger:
    """Read all files of a folder, append to one of our own."""

    def __init__(self, folder: str, *, seal_entries: int = SEAL_ENTRIES) -> None:
        self._folder = storage.absolute(folder)
        self._is_remote = storage.is_remote(folder)
        self._seal_entries = seal_entries
        self._writer: FileWriter | ObjectWriter | None = None
        self._own = _OwnFile()
        self._names: list[str] = []
        self._packs: list[Pack] = []
        self._recent: dict[bytes, int] = {}
        self._readers: dict[str, BinaryIO] = {}
        self._load()

    def __len__(self) -> int:
        return len(self._recent) + sum(pack.num_entries for pack in self._packs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def get(self, key: str) -> LedgerRecord | None:
        """The sold answer to a request, or None if it was never sold."""
        try:
            return self._look_up(key)
        except StorageError:  # a compaction moved the file since the folder was listed
            self._close_readers()
            self._load()
            return self._look_up(key)

    @property
    def is_remote(self) -> bool:
        """Whether `get` goes over a network, so that an event loop should not wait for it."""
        return self._is_remote

    def append(self, record: LedgerRecord) -> None:
        """Record a sold answer; returns once it survives this process."""
        self._remember(record, self._writing().append(record_line(record)))

    async def store(self, record: LedgerRecord) -> None:
        """`append` for an event loop; on object storage waits for a group of lines."""
        self._remember(record, await self._writing().store(record_line(record)))

    async def store_charge(self, charge: Charge) -> None:
        """Record what was billed, or may have been, without a usable answer."""
        await self._writing().store(charge_line(charge))
        self._own.count(charge)

    async def store_sent(self, worst: Charge) -> None:
        """Record that a request is about to be sent; for budgets that must outlive a kill."""
        await self._writing().store(sent_line(worst))
        self._own.in_flight[worst.key] = worst

    async def store_unsold(self, key: str) -> None:
        """Record that a request which was recorded as sent was refused."""
        await self._writing().store(unsold_line(key))
        self._own.in_flight.pop(key, None)

    def totals(self) -> Totals:
        """Calls and tokens per model of all that was paid, or may have been."""
        return self.bill().totals

    def bill(self) -> Bill:
        """The totals, and what of them brought no answer."""
        bill = Bill()
        packs, loose = self._listed()
        for pack in packs:
            bill.add(pack.bill)
        scan = Scan()
        for name in loose:
            for _ in iterate_lines(self._folder, name, scan):
                pass
        bill.add(scan.bill())
        return bill

    def records(self) -> Iterator[LedgerRecord]:
        """Every record on disk, file by file, each key once."""
        packs, loose = self._listed()
        for name in [*(pack.name for pack in packs), *loose]:
            for offset, key, line in iterate_lines(self._folder, name, Scan()):
                if self._position(key) in (None, Position(name, offset)):
                    yield parse_record(line, where=name)

    def close(self) -> None:
        """Sync and close."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._close_readers()

    def _load(self) -> None:
        for attempt in range(_LIST_ATTEMPTS):
            try:
                self._load_listed()
                return
            except StorageError:  # a compaction deletes what it has merged
                if attempt == _LIST_ATTEMPTS - 1:
                    raise

    def _load_listed(self) -> None:
        self._packs, loose = self._listed()
        self._names, self._recent = [], {}
        for name in loose:
            number = self._number(name)
            for offset, key, _ in iterate_lines(self._folder, name, Scan()):
                self._recent.setdefault(key[:PREFIX_BYTES], number | offset)

    def _listed(self) -> tuple[list[Pack], list[str]]:
        """Packs, and names of other data files, without those that a pack replaces."""
        listing = list_ledger(self._folder)
        packs = [open_pack(self._folder, name) for name in listing.packs]
        replaced = {name for pack in packs for name in pack.replaces}
        return (
            [pack for pack in packs if pack.name not in replaced],
            [name for name in listing.loose if name not in replaced],
        )

    def _number(self, name: str) -> int:
        """The file's number in the upper bits of a position; offsets stay below 2**40."""
        self._names.append(name)
        return (len(self._names) - 1) << 40

    def _position(self, key: bytes) -> Position | None:
        packed = self._recent.get(key[:PREFIX_BYTES])
        if packed is not None:
            return Position(self._names[packed >> 40], packed & (1 << 40) - 1)
        for pack in self._packs:
            offset = pack.find(key)
            if offset is not None:
                return Position(pack.name, offset)
        return None

    def _look_up(self, key: str) -> LedgerRecord | None:
        position = self._position(bytes.fromhex(key))
        if position is None:
            return None
        record = parse_record(self._line(position), where=position.name)
        return record if record.key == key else None

    def _line(self, position: Position) -> bytes:
        path = storage.join(self._folder, position.name + DATA)
        if not self._is_remote:
            reader = self._readers.get(position.name)
            if reader is None:
                reader = self._readers[position.name] = storage.open_binary(path)
            reader.seek(position.offset)
            return reader.readline()
        data = b""
        while b"\n" not in data:
            start = position.offset + len(data)
            piece = storage.read_range(path, start, start + _READ_BYTES)
            if not piece:
                break
            data += piece
        return data.partition(b"\n")[0]

    def _writing(self) -> FileWriter | ObjectWriter:
        if self._writer is None:
            self._writer = open_writer(self._folder)
        return self._writer

    def _remember(self, record: LedgerRecord, position: Position) -> None:
        if not self._names or self._names[-1] != position.name:
            self._number(position.name)
        number = (len(self._names) - 1) << 40
        self._recent[bytes.fromhex(record.key)[:PREFIX_BYTES]] = number | position.offset
        self._own.count(record)
        self._own.num_answers += 1
        if self._own.num_answers >= self._seal_entries and isinstance(self._writer, FileWriter):
            self._seal(self._writer, number)

    def _seal(self, writer: FileWriter, number: int) -> None:
        """Give our own file an index and go on in a new one."""
        writer.close()
        index = IndexBuilder()
        for key in [k for k, at in self._recent.items() if at >> 40 == number >> 40]:
            index.add(key, self._recent.pop(key) - number)
        path = storage.join(self._folder, writer.name + INDEX)
        index.write(path, bill=self._own.bill, replaces=())
        self._packs.append(open_pack(self._folder, writer.name))
        in_flight = self._own.in_flight
        self._writer, self._own = None, _OwnFile(in_flight=in_flight)
        for worst in in_flight.values():  # their outcome will stand in the new file
            self._writing().append(sent_line(worst))

    def _close_readers(self) -> None:
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()


@dataclass(slots=True)
class _OwnFile:
    """What this process has put into its current file."""

    num_answers: int = 0
    bill: Bill = field(default_factory=Bill)
    in_flight: dict[str, Charge] = field(default_factory=dict)

    def count(self, outcome: LedgerRecord | Charge) -> None:
        self.in_flight.pop(outcome.key, None)
        counts = {outcome.model: [1, outcome.prompt_tokens, outcome.completion_tokens]}
        self.bill.add(Bill(counts, charges=counts if isinstance(outcome, Charge) else {}))
