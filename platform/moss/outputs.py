"""Output files of a run: describe them for its manifest, verify them, read the ones it names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from moss import storage
from moss.errors import DataError, ManifestError, StorageError
from moss.manifest import Manifest, OutputFile, is_inside, load_manifest
from moss.rows import iterate_parquet, rows_digest


def describe_outputs(folder: str, outputs: Sequence[str]) -> tuple[OutputFile, ...]:
    """Size and digests of every file that `outputs` (files or folders below `folder`) name.

    Raises:
        StorageError: an output is absent or an empty folder.
        DataError: an output outside the run folder, or a Parquet file that is not whole.
    """
    names: list[str] = []
    for output in outputs:
        if not is_inside(output):
            raise DataError(f"output {output!r} must be relative to {folder} and without '..'")
        names += _files_of(folder, output)
    return tuple(_describe_file(folder, name) for name in sorted(set(names)))


def verify_outputs(folder: str) -> Manifest:
    """The manifest of a run after reading back every file it names.

    Raises:
        ManifestError: no valid manifest, or files absent, truncated or altered; names each.
    """
    manifest = load_manifest(folder)
    faults = [fault for item in manifest.outputs if (fault := find_fault(folder, item))]
    if faults:
        raise ManifestError(
            f"outputs of {manifest.stage} run {folder} are not what its manifest names: "
            f"{'; '.join(faults[:5])}{' ...' if len(faults) > 5 else ''}. "
            "Restore them, or run the stage again with --restart"
        )
    return manifest


def read_named_rows(folder: str, output: str) -> list[dict[str, object]]:
    """Rows of the Parquet files that a run's manifest names at or below `output`, each verified.

    A file that lies there without being named is not read.

    Raises:
        ManifestError: nothing is named there, or a named file is absent or altered.
    """
    named = check_named(folder, output)
    return [row for name in named for row in storage.read_rows(storage.join(folder, name))]


def check_named(folder: str, output: str) -> list[str]:
    """Paths of the Parquet files that a run's manifest names at or below `output`, each verified.

    Raises:
        ManifestError: nothing is named there, or a named file is absent or altered.
    """
    manifest = load_manifest(folder)
    prefix = output.strip("/")
    named = [
        item
        for item in manifest.outputs
        if item.rows is not None and (item.path == prefix or item.path.startswith(prefix + "/"))
    ]
    if not named:
        known = ", ".join(item.path for item in manifest.outputs[:10])
        raise ManifestError(f"{folder} names no Parquet file at {output!r}; it names: {known}")
    for item in named:
        if fault := find_fault(folder, item):
            raise ManifestError(f"{fault}, in {folder}; run its stage again with --restart")
    return [item.path for item in named]


def find_fault(folder: str, item: OutputFile) -> str | None:
    """How a file differs from its record, in words; None if it is the very file."""
    path = storage.join(folder, item.path)
    if not storage.exists(path):
        return f"{item.path} is absent"
    size = storage.size_bytes(path)
    if size != item.size_bytes:
        return f"{item.path} has {size} bytes, expected {item.size_bytes}"
    if storage.file_sha256(path) != item.sha256:
        return f"{item.path} has the right size but other content (sha256 differs)"
    return None


def _files_of(folder: str, output: str) -> list[str]:
    path = storage.join(folder, output)
    if not storage.is_folder(path):
        if not storage.exists(path):
            raise StorageError(f"output {path} was not written; the run cannot finish without it")
        return [output]
    below = storage.list_files(path)
    if not below:
        raise StorageError(f"output folder {path} is empty; name only what the run wrote")
    return [storage.join(output, name) for name in below]


def _describe_file(folder: str, name: str) -> OutputFile:
    path = storage.join(folder, name)
    num_rows, digest = _describe_rows(path) if name.endswith(".parquet") else (None, None)
    return OutputFile(
        path=name,
        size_bytes=storage.size_bytes(path),
        sha256=storage.file_sha256(path),
        rows=num_rows,
        rows_digest=digest,
    )


def _describe_rows(path: str) -> tuple[int, str]:
    num_rows = 0

    def counted(rows: Iterator[Mapping[str, object]]) -> Iterator[Mapping[str, object]]:
        nonlocal num_rows
        for row in rows:
            num_rows += 1
            yield row

    with storage.open_binary(path) as file:
        digest = rows_digest(counted(iterate_parquet(file, where=path)))
    return num_rows, digest
