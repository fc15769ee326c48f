"""Accepted prompts that later calls may show as examples, on disk."""

from __future__ import annotations

from dataclasses import dataclass

from moss.scratch import Scratch, as_bytes, as_text

_TABLE = (
    "CREATE TABLE example (bucket TEXT, position INTEGER, id TEXT NOT NULL, text BLOB NOT NULL, "
    "PRIMARY KEY (bucket, position)) WITHOUT ROWID"
)
_CACHE_MIB = 16


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt that may stand as an in-context example."""

    id: str
    text: str


class ExamplePool:
    """Examples by bucket and position, which count from 0 in the order of acceptance."""

    def __init__(self) -> None:
        self._scratch = Scratch(_TABLE, cache_mib=_CACHE_MIB)

    def put(self, bucket: str, position: int, example: Example) -> None:
        """Store an example. Raises StorageError if the scratch disk is full."""
        values = (bucket, position, example.id, as_bytes(example.text))
        self._scratch.write("INSERT INTO example VALUES (?, ?, ?, ?)", values)

    def get(self, bucket: str, position: int) -> Example:
        """The example that was put there."""
        query = "SELECT id, text FROM example WHERE bucket = ? AND position = ?"
        found = self._scratch.first(query, (bucket, position))
        assert found is not None, (bucket, position)
        return Example(str(found[0]), as_text(found[1]))
