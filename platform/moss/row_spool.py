"""Rows of one file on their way to Parquet: appended as they finish, read in order of id."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import cast

from moss.manifest import STATUSES, check_counts
from moss.recipes import Row
from moss.scratch import Scratch, as_bytes, as_text

_TABLE = (
    "CREATE TABLE row (id TEXT, number INTEGER, json BLOB NOT NULL, PRIMARY KEY (id, number)) "
    "WITHOUT ROWID"
)
_CACHE_MIB = 16
_to_json = json.JSONEncoder(ensure_ascii=False).encode


class RowSpool:
    """Rows on disk, in bounded memory; may be read many times, while it is not written.

    Stages append in the order in which rows finish, which is ascending within a bucket only; a
    reader gets all in ascending order of id, equal ids in the order in which they came.
    """

    def __init__(self, rows: Iterable[Mapping[str, object]] = ()) -> None:
        self._scratch = Scratch(_TABLE, cache_mib=_CACHE_MIB)
        self._num_rows = 0
        self._statuses: Counter[str] = Counter()
        for row in rows:
            self.append(row)

    def append(self, row: Mapping[str, object]) -> None:
        """Store one row.

        Raises:
            DataError: its status is none of a row's.
            StorageError: the scratch disk is full.
        """
        status = str(row.get("status"))
        if status not in STATUSES:
            check_counts(1, {status: 1}, step=str(row.get("step")))
        self._statuses[status] += 1
        self._num_rows += 1
        data = as_bytes(_to_json(row))
        values = (str(row["id"]), self._num_rows, data)
        self._scratch.write("INSERT INTO row VALUES (?, ?, ?)", values)

    def counts(self) -> dict[str, int]:
        """Rows by status, all four present; what `count_statuses` says of the same rows."""
        return {status: self._statuses[status] for status in STATUSES}

    def with_status(self, status: str) -> Iterator[Row]:
        """The rows of one status, in ascending order of id."""
        return (row for row in self if row["status"] == status)

    def __iter__(self) -> Iterator[Row]:
        """Every row, in ascending order of id, one in memory at a time."""
        for (data,) in self._scratch.rows("SELECT json FROM row ORDER BY id, number"):
            yield cast(Row, json.loads(as_text(data)))

    def __len__(self) -> int:
        return self._num_rows
