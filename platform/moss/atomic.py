"""Local files and folders that appear whole or not at all, whatever kills the writer."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from moss.failpoints import failpoint

TEMPORARY_MARK = ".moss-tmp-"
"""Part of every temporary name; a killed writer leaves at most files and folders named so."""


def replace_file(target: Path, data: bytes) -> None:
    """Write a file under a temporary name, sync it, rename it over `target`. Raises OSError."""
    with replacing_file(target) as file:
        file.write(data)


@contextmanager
def replacing_file(target: Path) -> Iterator[BinaryIO]:
    """A file to write in pieces; it appears as `target` when the block ends without an error.

    Raises OSError.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_beside(target)
    try:
        with temporary.open("xb") as file:
            failpoint("storage/temp_created")
            yield file
            file.flush()
            failpoint("storage/temp_written")
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    failpoint("storage/renamed")
    _sync_folder(target.parent)


def move_file(source: Path, target: Path) -> None:
    """Sync a finished file of the same file system and rename it over `target`. Raises OSError."""
    with source.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(source, target)
    _sync_folder(target.parent)


def replace_folder(source: Path, target: Path) -> None:
    """Move `source` to `target`; an old target steps aside first and is deleted last.

    Killed between the two renames, `target` is absent. Raises OSError.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    arrived = _temporary_beside(target)
    if source.stat().st_dev == target.parent.stat().st_dev:
        os.rename(source, arrived)
    else:
        shutil.copytree(source, arrived)
        shutil.rmtree(source)
    failpoint("folder/arrived")
    _sync_files(arrived)
    aside = _temporary_beside(target)
    if target.exists():
        os.rename(target, aside)
        failpoint("folder/old_aside")
    os.rename(arrived, target)
    failpoint("folder/renamed")
    _sync_folder(target.parent)
    if aside.exists():
        shutil.rmtree(aside)


def _temporary_beside(target: Path) -> Path:
    unique = f"{os.getpid()}-{secrets.token_hex(4)}"
    return target.with_name(f".{target.name[:100]}{TEMPORARY_MARK}{unique}")


def _sync_files(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
