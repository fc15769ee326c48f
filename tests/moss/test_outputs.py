from collections.abc import Callable

import pytest

from moss import storage
from moss.errors import DataError, ManifestError, StorageError
from moss.manifest import Manifest, write_manifest
from moss.outputs import describe_outputs, read_named_rows, verify_outputs
from moss.rows import rows_digest

ROWS = [{"id": "a", "status": "ok"}, {"id": "b", "status": "failed"}]


@pytest.fixture
def run(place: str) -> str:
    """A finished run with rows and a checkpoint."""
    storage.write_rows(storage.join(place, "data", "rows.parquet"), ROWS)
    storage.write_text(storage.join(place, "checkpoint", "model"), "weights")
    manifest = Manifest(
        stage="train_sft",
        run_id="run",
        code_version="v1",
        config_digest="c",
        inputs={},
        outputs=describe_outputs(place, ["data", "checkpoint"]),
        counts={},
        seconds=0.0,
        created_at="now",
    )
    write_manifest(place, manifest)
    return place


def test_outputs_are_described_by_size_digest_and_rows(run: str) -> None:
    model, rows = verify_outputs(run).outputs
    assert (model.path, model.size_bytes, model.rows) == ("checkpoint/model", 7, None)
    assert (rows.path, rows.rows, rows.rows_digest) == ("data/rows.parquet", 2, rows_digest(ROWS))


def _truncate(path: str) -> None:
    storage.write_bytes(path, storage.read_bytes(path)[:-3])


def _flip(path: str) -> None:
    data = storage.read_bytes(path)
    storage.write_bytes(path, data[:5] + bytes([data[5] ^ 1]) + data[6:])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_truncate, r"has \d+ bytes, expected \d+"),
        (_flip, "has the right size but other content"),
        (storage.remove, "is absent"),
    ],
)
@pytest.mark.parametrize("name", ["checkpoint/model", "data/rows.parquet"])
def test_damage_is_found_and_named_with_what_to_do(
    run: str, name: str, damage: Callable[[str], None], said: str
) -> None:
    damage(storage.join(run, name))
    with pytest.raises(ManifestError, match=f"train_sft run .*{name} {said}.*--restart"):
        verify_outputs(run)


def test_a_reader_takes_only_what_the_manifest_names(run: str) -> None:
    storage.write_rows(storage.join(run, "data", "stray.parquet"), [{"id": "stray"}])
    assert read_named_rows(run, "data") == ROWS
    assert read_named_rows(run, "data/rows.parquet") == ROWS
    with pytest.raises(ManifestError, match=r"names no Parquet file at 'data/stray.parquet'"):
        read_named_rows(run, "data/stray.parquet")
    _flip(storage.join(run, "data", "rows.parquet"))
    with pytest.raises(ManifestError, match=r"data/rows\.parquet has the right size"):
        read_named_rows(run, "data")


def test_outputs_that_were_not_written_are_refused(place: str) -> None:
    storage.write_text(storage.join(place, "file"), "x")
    assert [item.path for item in describe_outputs(place, ["file", "file"])] == ["file"]
    with pytest.raises(StorageError, match="absent was not written"):
        describe_outputs(place, ["absent"])
    with pytest.raises(DataError, match="must be relative"):
        describe_outputs(place, ["../other"])
