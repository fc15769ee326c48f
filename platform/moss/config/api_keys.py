"""The file of API keys: whose each key is, what it may use, and how much. It holds hashes only."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Self

from pydantic import Field, field_validator, model_validator

from moss.config.base import Config
from moss.types import ToolName

_SHA256 = re.compile(r"[0-9a-f]{64}")


class ApiKeyConfig(Config):
    """One API key of the chat service."""

    sha256: str
    """Hex digest of the key, which itself is kept nowhere."""
    label: str = Field(min_length=1, max_length=100)
    """Whose key it is. Keys of one label share their history, so that one can replace another."""
    expires: datetime | None = None
    """From this moment on the key is refused; UTC where no offset is given. None: never."""
    revoked: bool = False
    """Refused from now on."""
    tools: tuple[ToolName, ...] | None = None
    """Tools that requests may have on; an empty list allows none, None all."""
    models: tuple[str, ...] | None = None
    """Names of models that requests may ask; None allows all."""
    requests_per_minute: int | None = Field(None, ge=1)
    """Most requests per minute; as many may come at once after a minute of rest."""
    tokens_per_minute: int | None = Field(None, ge=1)
    """Most prompt plus completion tokens per minute. A request's tokens are known at its end, so
    it may overdraw; until that is paid back, further requests are refused."""
    max_ongoing: int | None = Field(None, ge=1)
    """Most requests that run at once."""

    @field_validator("expires")
    @classmethod
    def expiry_without_an_offset_is_utc(cls, value: datetime | None) -> datetime | None:
        """So that it does not depend on where the service runs."""
        return value.replace(tzinfo=UTC) if value and value.tzinfo is None else value

    def allows_tool(self, name: ToolName) -> bool:
        """Whether the tool is within the key's scope."""
        return self.tools is None or name in self.tools

    def allows_model(self, name: str) -> bool:
        """Whether the model is within the key's scope."""
        return self.models is None or name in self.models


class ApiKeysConfig(Config):
    """A file of API keys."""

    keys: tuple[ApiKeyConfig, ...]

    @model_validator(mode="before")
    @classmethod
    def keys_are_given_as_hashes(cls, data: object) -> object:
        """Checked before all else and never echoed: what stands in the place may be a key."""
        entries = data.get("keys", []) if isinstance(data, dict) else []
        if not isinstance(entries, list):
            raise ValueError("keys must be a list with one entry per key")
        for number, entry in enumerate(entries, start=1):
            digest = entry.get("sha256") if isinstance(entry, dict) else None
            if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
                raise ValueError(
                    f"entry {number} of keys has no sha256 of 64 hex digits; make an entry with "
                    "`python -m jobs.make_api_key`, or the hash of a key with "
                    "`printf %s KEY | sha256sum`"
                )
        return data

    @model_validator(mode="after")
    def each_key_has_one_entry(self) -> Self:
        """Two entries could contradict each other."""
        labels: dict[str, str] = {}
        for key in self.keys:
            if key.sha256 in labels:
                raise ValueError(
                    f"{labels[key.sha256]!r} and {key.label!r} are one key; keep one entry"
                )
            labels[key.sha256] = key.label
        return self
