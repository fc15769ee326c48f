"""Keys of endpoints: from the environment or a file, and on to the processes that need them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from moss.errors import ConfigError

FILE_SUFFIX = "_FILE"


def find_key(name: str) -> str | None:
    """The key in environment variable `name`, or in the file that `<name>_FILE` names.

    Raises:
        ConfigError: that file cannot be read.
    """
    if key := os.environ.get(name):
        return key
    path = os.environ.get(name + FILE_SUFFIX)
    if not path:
        return None
    try:
        return Path(path).read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name}{FILE_SUFFIX}={path} cannot be read ({error})") from error


def collect_keys(names: Iterable[str]) -> dict[str, str]:
    """The keys of this process by variable, of those that are set."""
    found = {name: find_key(name) for name in names}
    return {name: key for name, key in found.items() if key is not None}


def adopt_keys(keys: Mapping[str, str]) -> None:
    """Have this process find the keys that another one collected.

    Actors of a cluster are started with their node's environment, not with that of the driver.
    """
    os.environ.update(keys)
