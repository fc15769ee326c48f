import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moss import storage
from moss.errors import DataError, ManifestError, StorageError
from moss.manifest import Manifest, write_manifest
from moss.outputs import describe_outputs
from moss.row_files import NamedRows, write_row_file
from moss.rows import ROW_GROUP_ROWS, rows_digest

SCHEMA = pa.schema([("id", pa.string()), ("status", pa.string())])


def made(count: int) -> Iterator[dict[str, object]]:
    for number in range(count):
        yield {"id": f"{number:07d}", "status": "failed" if number % 3 else "ok"}


@pytest.mark.parametrize("count", [0, 1, ROW_GROUP_ROWS, 2 * ROW_GROUP_ROWS + 1])
def test_a_stream_of_any_length_reads_as_the_same_rows(place: str, count: int) -> None:
    path = storage.join(place, "deep", "rows.parquet")
    write_row_file(path, made(count), SCHEMA)
    assert storage.read_rows(path) == list(made(count))
    assert rows_digest(storage.read_rows(path)) == rows_digest(made(count))
    before = storage.file_sha256(path)
    write_row_file(path, made(count), SCHEMA)
    assert storage.file_sha256(path) == before


def test_a_stream_that_breaks_leaves_what_was_there(place: str) -> None:
    path = storage.join(place, "rows.parquet")

    def broken() -> Iterator[dict[str, object]]:
        yield from made(ROW_GROUP_ROWS + 1)
        raise DataError("the endpoint is gone")

    for expected in ([], list(made(3))):
        with pytest.raises(DataError, match="the endpoint is gone"):
            write_row_file(path, broken(), SCHEMA)
        assert storage.list_files(place) == (["rows.parquet"] if expected else [])
        if expected:
            assert storage.read_rows(path) == expected
        write_row_file(path, made(3), SCHEMA)


def test_a_row_that_does_not_fit_is_named(place: str) -> None:
    path = storage.join(place, "rows.parquet")
    with pytest.raises(DataError, match=r"id '7'.*column 'status'"):
        write_row_file(path, [{"id": "7", "status": 1}], SCHEMA)
    with pytest.raises(DataError, match="lone surrogate"):
        write_row_file(path, [{"id": "7", "status": "\ud83d"}], SCHEMA)
    with pytest.raises(DataError, match="that the schema lacks"):
        write_row_file(path, [{"id": "7", "other": 1}], SCHEMA)
    assert not storage.exists(path)


def test_rows_are_written_and_read_group_by_group(tmp_path: Path) -> None:
    path = str(tmp_path / "rows.parquet")
    write_row_file(path, made(10), SCHEMA)  # imports and caches
    tracemalloc.start()
    write_row_file(path, made(20 * ROW_GROUP_ROWS), SCHEMA)
    num_rows = sum(1 for _ in _finished(str(tmp_path), "ok"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert num_rows == (20 * ROW_GROUP_ROWS + 2) // 3
    assert pq.ParquetFile(path).num_row_groups == 20
    # Ten groups as Python rows; all twenty, or a list of all rows, would be far above.
    assert peak < 10 * ROW_GROUP_ROWS * 400


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_refuses_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="check space and permissions"):
        write_row_file(str(tmp_path / "x" / "rows.parquet"), made(1), SCHEMA)


def test_rows_of_a_finished_run_are_verified_first(place: str) -> None:
    path = storage.join(place, "rows.parquet")
    write_row_file(path, made(6), SCHEMA)
    rows = _finished(place, "ok")
    assert list(rows) == list(rows) == [row for row in made(6) if row["status"] == "ok"]
    write_row_file(path, made(7), SCHEMA)
    with pytest.raises(ManifestError, match=r"rows\.parquet"):
        NamedRows(place, "rows.parquet")
    with pytest.raises(ManifestError, match="names no Parquet file"):
        NamedRows(place, "others.parquet")


def _finished(folder: str, status: str) -> NamedRows:
    manifest = Manifest(
        stage="train_sft",
        run_id="run",
        code_version="v1",
        config_digest="c",
        inputs={},
        outputs=describe_outputs(folder, ["rows.parquet"]),
        counts={},
        seconds=0.0,
        created_at="now",
    )
    write_manifest(folder, manifest)
    return NamedRows(folder, "rows.parquet", status=status)
