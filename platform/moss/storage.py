"""Files of a run on any fsspec file system: whole-file writes, JSON, folders, Parquet rows.

Paths are strings: local (`runs/tiny`, `file:///runs`) or an fsspec URL (`s3://bucket/road`). A
write is atomic or absent: locally by `moss.atomic`, on an object store because one PUT is. Other
remote file systems (HDFS, SFTP) may keep a torn file when a writer is killed; the digests of the
run's manifest (`moss.manifest`) refuse it, so readers still take whole files only.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, TypeVar, cast

from moss.atomic import TEMPORARY_MARK as TEMPORARY_MARK
from moss.atomic import move_file, replace_file, replace_folder
from moss.errors import DataError, StorageError
from moss.failpoints import failpoint
from moss.rows import read_parquet_bytes, rows_to_parquet
from moss.rows import rows_digest as rows_digest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import fsspec
    import pyarrow as pa

_CHUNK_BYTES = 1 << 20

T = TypeVar("T")


def is_remote(path: str) -> bool:
    """Whether a path is an fsspec URL other than `file://`."""
    return "://" in path and not path.startswith("file://")


def absolute(path: str) -> str:
    """A local path made absolute from the current folder; a URL as it stands, without end slash."""
    if is_remote(path):
        return path.rstrip("/")
    return os.path.abspath(os.path.expanduser(path.removeprefix("file://")))


def join(base: str, *parts: str) -> str:
    """Path below `base`, with forward slashes between its parts."""
    return "/".join([base.rstrip("/") or "/", *(part.strip("/") for part in parts if part)])


def exists(path: str) -> bool:
    """Whether a file or folder is there."""
    if is_remote(path):
        file_system, inner = _remote(path)
        return bool(file_system.exists(inner))
    return _local(path).exists()


def is_folder(path: str) -> bool:
    """Whether a folder is there; on an object store, whether anything lies below the path."""
    if is_remote(path):
        file_system, inner = _remote(path)
        return bool(file_system.isdir(inner))
    return _local(path).is_dir()


def size_bytes(path: str) -> int:
    """Size of a file. Raises StorageError if it is absent."""
    if is_remote(path):
        file_system, inner = _remote(path)
        return _reading(path, lambda: int(file_system.size(inner)))
    return _reading(path, lambda: _local(path).stat().st_size)


def open_binary(path: str) -> BinaryIO:
    """A file open for reading bytes. Raises StorageError if it is absent or unreadable."""
    if is_remote(path):
        file_system, inner = _remote(path)
        return _reading(path, lambda: cast(BinaryIO, file_system.open(inner, "rb")))
    return _reading(path, lambda: cast(BinaryIO, _local(path).open("rb")))


def read_bytes(path: str) -> bytes:
    """The whole file. Raises StorageError if it is absent or unreadable."""
    with open_binary(path) as file:
        return file.read()


def read_range(path: str, start: int, end: int) -> bytes:
    """Bytes from `start` up to `end`, fewer at the end of the file. Raises StorageError."""
    if is_remote(path):
        file_system, inner = _remote(path)
        return _reading(path, lambda: bytes(file_system.cat_file(inner, start=start, end=end)))
    with open_binary(path) as file:
        file.seek(start)
        return file.read(end - start)


def read_text(path: str) -> str:
    """The whole file as UTF-8. Raises DataError if it is not UTF-8."""
    try:
        return read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text ({error}); was it truncated or binary?"
        ) from error


def read_json(path: str) -> object:
    """The JSON value of a file. Raises DataError if it does not parse."""
    try:
        return cast(object, json.loads(read_text(path)))
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not valid JSON ({error}); was it truncated?") from error


def file_sha256(path: str) -> str:
    """sha256 of a file's bytes, hex, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with open_binary(path) as file:
        while piece := file.read(_CHUNK_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def write_bytes(path: str, data: bytes) -> None:
    """Write a whole file, atomically; folders are made.

    Raises:
        StorageError: the file system refused (full, read-only, no permission).
    """
    try:
        if is_remote(path):
            file_system, inner = _remote(path)
            file_system.makedirs(str(PurePosixPath(inner).parent), exist_ok=True)
            failpoint("storage/before_put")
            file_system.pipe_file(inner, data)
            failpoint("storage/after_put")
        else:
            replace_file(_local(path), data)
    except OSError as error:
        raise StorageError(
            f"cannot write {path} ({len(data)} bytes): {error}; check space and permissions"
        ) from error


def put_file(source: Path, path: str) -> None:
    """Make a finished local file appear at `path`, whole or not at all; a local `source` moves.

    Raises:
        StorageError: the file system refused.
    """
    try:
        if is_remote(path):
            file_system, inner = _remote(path)
            file_system.makedirs(str(PurePosixPath(inner).parent), exist_ok=True)
            file_system.put_file(str(source), inner)
        else:
            move_file(source, _local(path))
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error}; check space and permissions") from error


def write_text(path: str, text: str) -> None:
    """Write UTF-8 text, atomically. Raises DataError for text that UTF-8 cannot hold."""
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"text for {path} holds a lone surrogate at character {error.start}; "
            "replace it before writing"
        ) from error
    write_bytes(path, data)


def write_json(path: str, value: object) -> None:
    """Write a value as indented JSON with sorted keys, atomically; equal values, equal bytes.

    Raises:
        DataError: the value holds NaN, infinity, a lone surrogate or something that is not JSON.
    """
    try:
        text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(f"value for {path} is not JSON: {error}") from error
    write_text(path, text + "\n")


def write_rows(
    path: str, rows: Sequence[Mapping[str, object]], schema: pa.Schema | None = None
) -> None:
    """Write rows as one Parquet file, atomically, in the order given; see `rows_to_parquet`."""
    write_bytes(path, rows_to_parquet(rows, schema, where=path))


def read_rows(path: str) -> list[dict[str, object]]:
    """Rows of one Parquet file, or of every `*.parquet` below a folder in name order.

    Raises:
        StorageError: nothing is there, or a folder without Parquet files.
        DataError: a file is not whole Parquet.
    """
    if path.endswith(".parquet"):
        return read_parquet_bytes(read_bytes(path), where=path)
    names = [name for name in list_files(path) if name.endswith(".parquet")]
    if not names:
        raise StorageError(f"{path} holds no Parquet files; has the stage that writes it finished?")
    return [row for name in names for row in read_rows(join(path, name))]


def list_files(folder: str) -> list[str]:
    """Files below a folder, relative and sorted, without temporary ones; empty if it is absent."""
    if is_remote(folder):
        file_system, inner = _remote(folder)
        prefix = inner.strip("/") + "/"
        found = [name.strip("/").removeprefix(prefix) for name in file_system.find(inner)]
    else:
        root = _local(folder)
        found = [file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file()]
    return sorted(name for name in found if TEMPORARY_MARK not in name)


def remove(path: str) -> None:
    """Delete a file or a folder with all it holds; nothing happens if it is absent."""
    if is_remote(path):
        file_system, inner = _remote(path)
        if file_system.exists(inner):
            file_system.rm(inner, recursive=True)
        return
    local = _local(path)
    if local.is_dir() and not local.is_symlink():
        shutil.rmtree(local)
    else:
        local.unlink(missing_ok=True)


def publish_folder(local_tmp: str, target: str) -> None:
    """Move a finished local folder to `target` and replace what was there; `local_tmp` is gone.

    For writers that only know local folders (`save_pretrained`, DeepSpeed). A local target is
    whole or absent, never mixed: files are synced, an old target steps aside, one rename follows.
    On remote storage files arrive one by one; only the manifest that names them later makes them
    readable.

    Raises:
        StorageError: `local_tmp` is not a folder with files, or storage refused.
    """
    source = _local(local_tmp)
    if not source.is_dir() or not any(source.iterdir()):
        raise StorageError(f"{local_tmp} is not a folder with files, so nothing can be published")
    try:
        if is_remote(target):
            _upload(source, target)
        else:
            replace_folder(source, _local(target))
    except OSError as error:
        raise StorageError(f"cannot publish {local_tmp} as {target}: {error}") from error


def sweep_temporary(folder: str) -> None:
    """Delete what killed writers left below a local folder; call only as its one owner."""
    if is_remote(folder):
        return
    for leftover in sorted(_local(folder).rglob(f"*{TEMPORARY_MARK}*")):
        remove(str(leftover))


def _local(path: str) -> Path:
    return Path(path.removeprefix("file://"))


def _remote(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    import fsspec

    try:
        file_system, inner = fsspec.core.url_to_fs(path)
    except ImportError as error:
        raise StorageError(f"{path}: {error}; on every node, pinned in constraints.txt") from error
    except ValueError as error:
        raise StorageError(f"{path}: {error}; use a folder or an fsspec URL (s3://...)") from error
    return file_system, str(inner)


def _reading(path: str, read: Callable[[], T]) -> T:
    try:
        return read()
    except FileNotFoundError as error:
        raise StorageError(f"{path} does not exist; has the stage that writes it run?") from error
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error}") from error


def _upload(source: Path, target: str) -> None:
    remove(target)
    for name in list_files(str(source)):
        write_bytes(join(target, name), (source / name).read_bytes())
    shutil.rmtree(source)
