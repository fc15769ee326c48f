"""Making API keys and reading the file that lists them."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import stat
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from moss.atomic import replacing_file
from moss.config.api_keys import ApiKeyConfig, ApiKeysConfig
from moss.config.base import UniqueKeys, parse_config
from moss.errors import ConfigError, StorageError
from moss.watched_file import WatchedFile

_NEW_FILE = "# API keys of the chat service, which reads this file again when it changes.\nkeys:\n"
_FIRST_ENTRY = re.compile(r"^( *)- ", re.MULTILINE)


def new_key() -> str:
    """A random key of 256 bits; the prefix lets scanners for leaked secrets find it."""
    return f"moss-{secrets.token_urlsafe(32)}"


def key_digest(key: str) -> str:
    """sha256 of a key, hex."""
    return hashlib.sha256(key.encode()).hexdigest()


def read_keys(path: Path) -> tuple[ApiKeyConfig, ...]:
    """The entries of a file of keys.

    Raises:
        ConfigError: it is absent, unreadable or malformed; no message holds what may be a key.
    """
    try:
        return _parse(path.read_text(encoding="utf-8"), path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the file of API keys {path} cannot be read ({error}); "
            f"`python -m jobs.make_api_key --label NAME --file {path}` makes one"
        ) from error


def append_key(path: Path, entry: ApiKeyConfig) -> None:
    """Add an entry at the end of a file of keys, which is made if absent.

    Readers see the old file or the new one; comments stay, and of two writers at once both count.

    Raises:
        ConfigError: the file is malformed, or does not end with its list of keys.
        StorageError: the file system refused.
    """
    path = path.resolve()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _only_writer(path.parent):
            known = read_keys(path) if path.exists() else ()
            text = path.read_text(encoding="utf-8") if path.exists() else _NEW_FILE
            text = _with_entry(text, entry)
            if _parse(text, path) != (*known, entry):
                raise _no_place(path)
            _replace(path, text)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error}; check space and permissions") from error


class ApiKeyFile:
    """The entries of a file of keys, read again when the file changes.

    So a key is revoked without a restart. A file that has become unreadable or malformed is
    reported once, as an error, and the entries read before stay in force.
    """

    def __init__(self, path: str) -> None:
        """Read the file. Raises ConfigError, see `read_keys`."""
        self._file = WatchedFile(path, read_keys, describe=_what_stays)

    @property
    def keys(self) -> tuple[ApiKeyConfig, ...]:
        """The entries as the file has them now."""
        return self._file.value


def _what_stays(keys: tuple[ApiKeyConfig, ...]) -> str:
    return f"API keys stay as they were, {len(keys)} of them, revoked or not,"


def _parse(text: str, path: Path) -> tuple[ApiKeyConfig, ...]:
    try:
        data = yaml.load(text, UniqueKeys)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)  # the whole message would quote the line
        where = f" at line {mark.line + 1}" if mark else ""
        raise ConfigError(
            f"{path} is not valid YAML{where}; a key of a mapping stands once"
        ) from None
    if not isinstance(data, dict):
        raise ConfigError(
            f"{path} holds no mapping with `keys:`, a list with one entry per API key; "
            "`python -m jobs.make_api_key` makes such a file"
        )
    return parse_config(ApiKeysConfig, data, source=str(path)).keys


def _with_entry(text: str, entry: ApiKeyConfig) -> str:
    data = entry.model_dump(mode="json", exclude_defaults=True)
    block = yaml.safe_dump([data], sort_keys=False, allow_unicode=True)
    first = _FIRST_ENTRY.search(text)
    newline = "" if text.endswith("\n") else "\n"
    return text + newline + textwrap.indent(block, first[1] if first else "")


def _no_place(path: Path) -> ConfigError:
    return ConfigError(
        f"{path} does not end with a block list, so no entry can be put at its end; write `keys:` "
        "and below it one `- sha256: ...` entry per key"
    )


def _replace(path: Path, text: str) -> None:
    with replacing_file(path) as file:
        if path.exists():
            os.fchmod(file.fileno(), stat.S_IMODE(path.stat().st_mode))
        file.write(text.encode())


@contextmanager
def _only_writer(folder: Path) -> Iterator[None]:
    """Lock the folder, for the file itself is replaced and takes its lock with it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
