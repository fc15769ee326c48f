import os
from pathlib import Path

import pytest

from moss import storage
from moss.errors import DataError, StorageError


def test_what_is_written_is_read_back(place: str) -> None:
    storage.write_bytes(storage.join(place, "deep", "er", "bytes"), b"\x00\xff")
    storage.write_text(storage.join(place, "text"), "资本\nParis")
    storage.write_json(storage.join(place, "value.json"), {"b": [1, None], "a": "é"})
    storage.write_rows(storage.join(place, "rows.parquet"), [{"id": "1"}, {"id": "2"}])
    assert storage.read_bytes(storage.join(place, "deep/er/bytes")) == b"\x00\xff"
    assert storage.read_text(storage.join(place, "text")) == "资本\nParis"
    assert storage.read_json(storage.join(place, "value.json")) == {"b": [1, None], "a": "é"}
    assert storage.read_rows(storage.join(place, "rows.parquet")) == [{"id": "1"}, {"id": "2"}]
    assert storage.size_bytes(storage.join(place, "deep/er/bytes")) == 2
    assert storage.list_files(place) == ["deep/er/bytes", "rows.parquet", "text", "value.json"]
    assert storage.is_folder(storage.join(place, "deep"))
    assert not storage.is_folder(storage.join(place, "text"))


def test_a_folder_of_rows_is_read_in_name_order(place: str) -> None:
    for name in ("b", "a"):
        storage.write_rows(storage.join(place, "data", f"{name}.parquet"), [{"id": name}])
    assert storage.read_rows(storage.join(place, "data")) == [{"id": "a"}, {"id": "b"}]


def test_equal_values_make_equal_bytes(place: str) -> None:
    rows = [{"id": str(number), "text": "字" * number} for number in range(50)]
    for name in ("one", "two"):
        storage.write_rows(storage.join(place, f"{name}.parquet"), rows)
    storage.write_json(storage.join(place, "one.json"), {"a": 1, "b": 2})
    storage.write_json(storage.join(place, "two.json"), {"b": 2, "a": 1})
    for suffix in ("parquet", "json"):
        one, two = (storage.join(place, f"{name}.{suffix}") for name in ("one", "two"))
        assert storage.read_bytes(one) == storage.read_bytes(two)
        assert storage.file_sha256(one) == storage.file_sha256(two)


def test_remove_deletes_files_and_folders_and_forgives_absence(place: str) -> None:
    storage.write_text(storage.join(place, "folder", "file"), "x")
    storage.write_text(storage.join(place, "alone"), "x")
    for name in ("folder", "alone", "never"):
        storage.remove(storage.join(place, name))
        assert not storage.exists(storage.join(place, name))


@pytest.mark.parametrize("reader", [storage.read_bytes, storage.read_rows, storage.size_bytes])
def test_an_absent_file_is_named(place: str, reader: object) -> None:
    assert callable(reader)
    path = storage.join(place, "absent.parquet")
    with pytest.raises(StorageError, match=r"absent.parquet does not exist"):
        reader(path)


def test_files_that_are_not_what_their_reader_needs_are_named(place: str) -> None:
    path = storage.join(place, "bad.json")
    storage.write_bytes(path, b'{"a": ')
    with pytest.raises(DataError, match=r"bad\.json is not valid JSON"):
        storage.read_json(path)
    storage.write_bytes(path, b"\xff\xfe")
    with pytest.raises(DataError, match=r"bad\.json is not UTF-8"):
        storage.read_text(path)
    with pytest.raises(StorageError, match="holds no Parquet files"):
        storage.read_rows(place)


def test_text_that_utf8_cannot_hold_is_refused(place: str) -> None:
    with pytest.raises(DataError, match="lone surrogate at character 3"):
        storage.write_text(storage.join(place, "text"), "abc\ud800")
    with pytest.raises(DataError, match="not JSON"):
        storage.write_json(storage.join(place, "value.json"), float("nan"))
    assert storage.list_files(place) == []


def test_a_refused_write_says_where_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match=r"cannot write .*check space and permissions"):
        storage.write_bytes(str(tmp_path / "file" / "below"), b"x")


def test_publishing_replaces_the_target_whole(place: str, tmp_path: Path) -> None:
    target = storage.join(place, "published", "checkpoint")
    for names in (["a", "old"], ["a", "sub/new"]):
        source = tmp_path / "building"
        for name in names:
            storage.write_text(str(source / name), name)
        storage.publish_folder(str(source), target)
        assert not source.exists()
        assert storage.list_files(target) == names


def test_publishing_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="not a folder with files"):
        storage.publish_folder(str(tmp_path / "absent"), str(tmp_path / "target"))


def test_leftovers_of_killed_writers_are_neither_listed_nor_kept(tmp_path: Path) -> None:
    storage.write_text(str(tmp_path / "data" / "rows"), "x")
    leftover = tmp_path / "data" / ".rows.moss-tmp-1-ab"
    leftover.write_text("torn")
    assert storage.list_files(str(tmp_path)) == ["data/rows"]
    storage.sweep_temporary(str(tmp_path))
    assert not leftover.exists()
    assert (tmp_path / "data" / "rows").exists()


def test_local_paths_become_absolute_and_urls_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("runs/tiny") == os.path.join(tmp_path, "runs/tiny")
    assert storage.absolute("file:///runs/") == "/runs"
    assert storage.absolute("s3://bucket/road/") == "s3://bucket/road"


@pytest.mark.parametrize(
    ("parts", "path"),
    [
        (("runs", "a", "b"), "runs/a/b"),
        (("/runs/", "a/", ""), "/runs/a"),
        (("s3://bucket", "a"), "s3://bucket/a"),
    ],
)
def test_join_puts_one_slash_between_parts(parts: tuple[str, ...], path: str) -> None:
    assert storage.join(*parts) == path


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("dropbox://box/road", "[Ii]nstall.*; on every node"),
        ("floppy://a/road", "Protocol not known: floppy; use a folder"),
    ],
)
def test_a_scheme_without_a_driver_says_what_to_install(path: str, message: str) -> None:
    with pytest.raises(StorageError, match=message):
        storage.exists(path)
