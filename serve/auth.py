"""API keys: only hashes are kept, comparison takes the same time for every key.

Keys come from `MOSS_API_KEYS` (separated by commas) or, as sha256 hashes, from a file of lines
`hash label`. Without any key the service is open, which is allowed on loopback only.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from moss.config.serve import HttpConfig
from moss.errors import ConfigError
from serve.errors import ApiError

KEYS_ENV: Final = "MOSS_API_KEYS"
_HASH = re.compile(r"[0-9a-f]{64}")


class ApiKeys:
    """Who may call; an empty set lets everybody in."""

    def __init__(self, labels_by_hash: Mapping[str, str]) -> None:
        self._labels = dict(labels_by_hash)

    @classmethod
    def load(cls, config: HttpConfig, environment: Mapping[str, str] = os.environ) -> ApiKeys:
        """Keys of the environment and of `api_key_file`.

        Raises:
            ConfigError: the file is missing or malformed, or the service would be open to a
                network without keys.
        """
        labels = _from_file(config.api_key_file) if config.api_key_file else {}
        keys = [key.strip() for key in environment.get(KEYS_ENV, "").split(",")]
        for number, key in enumerate(filter(None, keys), start=1):
            labels[_digest(key)] = f"{KEYS_ENV} #{number}"
        if not labels and not config.is_loopback and not config.allow_open_network:
            raise ConfigError(
                f"http.host={config.host} is reachable from other machines and no API key is set; "
                f"set {KEYS_ENV} or http.api_key_file, or http.allow_open_network=true"
            )
        return cls(labels)

    @property
    def required(self) -> bool:
        """Whether a request needs a key."""
        return bool(self._labels)

    def check(self, authorization: str | None) -> str:
        """Label of the key in an Authorization header; `open` where none is needed.

        Raises:
            ApiError: 401, no key or a wrong one.
        """
        if not self._labels:
            return "open"
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise ApiError(
                401, "send your API key as `Authorization: Bearer <key>`", code="missing_api_key"
            )
        digest = _digest(key.strip())
        found = ""
        for known, label in self._labels.items():
            if hmac.compare_digest(known, digest):
                found = label
        if not found:
            raise ApiError(401, "this API key is not known", code="invalid_api_key")
        return found


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _from_file(path: str) -> dict[str, str]:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"http.api_key_file {path!r} cannot be read: {error}") from error
    labels: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        digest, _, label = line.strip().partition(" ")
        if not _HASH.fullmatch(digest):
            raise ConfigError(
                f"{path} line {number} is not `sha256-hex label`; make one with "
                "`printf %s KEY | sha256sum`"
            )
        labels[digest] = label.strip() or f"line {number}"
    return labels
