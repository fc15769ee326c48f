"""API keys: only hashes are kept, comparison takes the same time for every key.

Keys come from `MOSS_API_KEYS` (separated by commas; no scopes, no limits) and from the file that
`http.api_key_file` names (`moss.config.api_keys`). Without either the service is open, which is
allowed on loopback only.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from moss.api_keys import ApiKeyFile, key_digest
from moss.config.api_keys import ApiKeyConfig
from moss.config.serve import HttpConfig
from moss.errors import ConfigError
from serve.errors import ApiError

KEYS_ENV: Final = "MOSS_API_KEYS"
OPEN: Final = ApiKeyConfig(sha256=key_digest(""), label="open")
"""Stands for everybody where no key is needed; no request can send an empty key."""


class ApiKeys:
    """Who may call; without keys and without a file, everybody may."""

    def __init__(self, keys: Sequence[ApiKeyConfig] = (), file: ApiKeyFile | None = None) -> None:
        self._keys = tuple(keys)
        self._file = file

    @classmethod
    def load(cls, config: HttpConfig, environment: Mapping[str, str] = os.environ) -> ApiKeys:
        """Keys of the environment and of `api_key_file`.

        Raises:
            ConfigError: the file is missing or malformed, or the service would be open to a
                network without keys.
        """
        file = ApiKeyFile(config.api_key_file) if config.api_key_file else None
        named = [key.strip() for key in environment.get(KEYS_ENV, "").split(",")]
        keys = [
            ApiKeyConfig(sha256=key_digest(key), label=f"{KEYS_ENV} #{number}")
            for number, key in enumerate(filter(None, named), start=1)
        ]
        loaded = cls(keys, file)
        if not loaded.required and not config.is_loopback and not config.allow_open_network:
            raise ConfigError(
                f"http.host={config.host} is reachable from other machines and no API key is set; "
                f"set {KEYS_ENV} or http.api_key_file, or http.allow_open_network=true"
            )
        return loaded

    @property
    def required(self) -> bool:
        """Whether a request needs a key. A file without entries lets nobody in."""
        return bool(self._keys) or self._file is not None

    def check(self, authorization: str | None) -> ApiKeyConfig:
        """The key in an Authorization header; `OPEN` where none is needed.

        Raises:
            ApiError: 401; there is no key, or it is unknown, revoked or expired.
        """
        if not self.required:
            return OPEN
        scheme, _, sent = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not sent.strip():
            raise ApiError(
                401, "send your API key as `Authorization: Bearer <key>`", code="missing_api_key"
            )
        key = self._find(key_digest(sent.strip()))
        if key is None:
            raise ApiError(401, "this API key is not known", code="invalid_api_key")
        if key.revoked:
            raise ApiError(401, "this API key was revoked; ask for another", code="revoked_api_key")
        if key.expires is not None and key.expires <= datetime.now(UTC):
            raise ApiError(
                401, f"this API key expired at {key.expires.isoformat()}; ask for another",
                code="expired_api_key",
            )  # fmt: skip
        return key

    def _find(self, digest: str) -> ApiKeyConfig | None:
        """The entry of a key; the file's, where the environment names it too."""
        found = None
        for known in (*self._keys, *(self._file.keys if self._file else ())):
            if hmac.compare_digest(known.sha256, digest):
                found = known
        return found
