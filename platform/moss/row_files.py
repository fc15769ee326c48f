"""Parquet files of any length, written and read as streams in bounded memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, cast

from moss import storage
from moss.atomic import replacing_file
from moss.errors import MossError, StorageError
from moss.failpoints import failpoint
from moss.outputs import check_named
from moss.rows import iterate_parquet, write_row_groups

if TYPE_CHECKING:
    import pyarrow as pa

Row = dict[str, object]


def write_row_file(path: str, rows: Iterable[Mapping[str, object]], schema: pa.Schema) -> None:
    """Write rows as one Parquet file as they come, in the order given.

    The file appears when all are in it: whatever ends the stream early, it is absent or what it
    was before. For what a row may hold see `moss.rows.write_row_groups`.

    Raises:
        StorageError: the file system refused.
    """
    with _open_output(path) as file:
        write_row_groups(file, rows, schema, where=path)


class NamedRows:
    """Rows of a finished run's file, read anew each time they are iterated, in the file's order.

    Args:
        output: path of a Parquet file that the run's manifest names.
        status: rows of this status only; None for all.

    Raises:
        ManifestError: it names none there, or the file is absent or altered.
    """

    def __init__(self, folder: str, output: str, *, status: str | None = None) -> None:
        check_named(folder, output)
        self._path = storage.join(folder, output)
        self._status = status

    def __iter__(self) -> Iterator[Row]:
        """Each row, a thousand in memory at a time. Raises DataError if the file is torn."""
        with storage.open_binary(self._path) as file:
            for row in iterate_parquet(file, where=self._path):
                if self._status is None or row["status"] == self._status:
                    yield row


@contextmanager
def _open_output(path: str) -> Iterator[BinaryIO]:
    """A file to write in pieces; for a remote path a local one that is sent when it is whole."""
    try:
        if not storage.is_remote(path):
            with replacing_file(Path(path.removeprefix("file://"))) as file:
                yield file
            return
        with tempfile.NamedTemporaryFile() as spooled:
            yield cast(BinaryIO, spooled)
            spooled.flush()
            _send(spooled.name, path)
    except OSError as error:
        if isinstance(error, MossError):
            raise
        raise StorageError(f"cannot write {path}: {error}; check space and permissions") from error


def _send(local: str, path: str) -> None:
    import fsspec

    file_system, inner = fsspec.core.url_to_fs(path)
    file_system.makedirs(str(PurePosixPath(inner).parent), exist_ok=True)
    failpoint("storage/before_put")
    file_system.put_file(local, inner)
    failpoint("storage/after_put")
