"""A scratch table on disk: what a stage must look up again but need not hold in memory.

SQLite keeps a private database that no name leads to, so it vanishes with its process however that
ends. It lies in `SQLITE_TMPDIR`, else `TMPDIR`, else `/var/tmp`; only its page cache is memory.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from moss.errors import StorageError

CACHE_MIB = 32
"""Page cache of one scratch database."""

Value = str | bytes | int


class Scratch:
    """One private database with the tables it is made with.

    Args:
        tables: `CREATE TABLE` statements.
        cache_mib: most memory its page cache takes.
    """

    def __init__(self, *tables: str, cache_mib: int = CACHE_MIB) -> None:
        with _storage_errors():
            self._connection = sqlite3.connect("", isolation_level=None)
            # Nothing is ever rolled back or read after a crash.
            for pragma in ("journal_mode=OFF", "synchronous=OFF", f"cache_size=-{cache_mib << 10}"):
                self._connection.execute(f"PRAGMA {pragma}")
            for table in tables:
                self._connection.execute(table)
            self._connection.execute("BEGIN")

    def write(self, statement: str, values: Sequence[Value]) -> None:
        """Run one `INSERT`. Raises StorageError if the disk is full."""
        with _storage_errors():
            self._connection.execute(statement, values)

    def write_many(self, statement: str, rows: Iterable[Sequence[Value]]) -> None:
        """Run one `INSERT` per row. Raises StorageError if the disk is full."""
        with _storage_errors():
            self._connection.executemany(statement, rows)

    def first(self, query: str, values: Sequence[Value]) -> tuple[Value, ...] | None:
        """The first row of a query, or None."""
        with _storage_errors():
            found: tuple[Value, ...] | None = self._connection.execute(query, values).fetchone()
        return found

    def rows(self, query: str, values: Sequence[Value] = ()) -> Iterator[tuple[Value, ...]]:
        """The rows of a query, one in memory at a time; write nothing until it ends."""
        with _storage_errors():
            yield from self._connection.execute(query, values)


@contextmanager
def _storage_errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StorageError(
            f"scratch database: {error}; it lies in SQLITE_TMPDIR (else TMPDIR, else /var/tmp): "
            "free space there or point SQLITE_TMPDIR at a larger disk, then run again"
        ) from error


def as_bytes(text: str) -> bytes:
    """UTF-8 that also holds the lone surrogates a teacher may send."""
    return text.encode("utf-8", "surrogatepass")


def as_text(data: Value) -> str:
    """Inverse of `as_bytes`."""
    assert isinstance(data, bytes)
    return data.decode("utf-8", "surrogatepass")
