"""A value read from a file, and read again when the file changes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from moss.errors import ConfigError

T = TypeVar("T")

_Stamp = tuple[int, int, int]
"""Modification time (ns), size and inode: what tells one state of a file from the next."""


def _what_stays(_: object) -> str:
    return "what was read before stays"


class WatchedFile(Generic[T]):
    """What a reader makes of a file now.

    A file that has become unreadable or malformed is reported once, as an error, and the value read
    before stays in force.
    """

    def __init__(
        self, path: str, read: Callable[[Path], T], *, describe: Callable[[T], str] = _what_stays
    ) -> None:
        """Read the file. Raises what `read` raises: ConfigError, if the file is not as it ought.

        Args:
            describe: what the report says of a value that stays in force.
        """
        self._path = Path(path).expanduser().absolute()
        self._read = read
        self._describe = describe
        self._stamp = _stamp(self._path)
        self._value = read(self._path)

    @property
    def value(self) -> T:
        """The value as the file has it."""
        stamp = _stamp(self._path)
        if stamp != self._stamp:
            self._stamp = stamp  # taken before reading, so that no later change is missed
            try:
                self._value = self._read(self._path)
            except ConfigError as error:
                kept = self._describe(self._value)
                logging.getLogger(__name__).error("%s in force: %s", kept, error)
        return self._value


def _stamp(path: Path) -> _Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
