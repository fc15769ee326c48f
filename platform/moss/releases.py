"""Which of the served models answers those who name none: the stable one, or a canary for some."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from moss.atomic import replacing_file
from moss.config.base import Config, parse_config
from moss.errors import ConfigError, StorageError


class Release(Config):
    """Contents of a release file."""

    stable: str = Field(min_length=1)
    """Name of the model that is released."""
    canary: str | None = None
    """Name of the model that some users get instead."""
    canary_share: float = Field(0.0, ge=0, le=1)
    """Share of users; the same ones at each request, and still there when the share grows."""
    previous: str | None = None
    """What was stable before; a rollback goes there. None where there is no step to undo."""

    @model_validator(mode="after")
    def a_share_needs_a_canary(self) -> Self:
        """Users are sent to a model that is named."""
        if self.canary_share and self.canary is None:
            raise ValueError(f"canary_share={self.canary_share} names no canary; set it, or 0")
        return self

    def model_for(self, user: str) -> str:
        """The model that a user gets."""
        if self.canary is not None and _place(user) < self.canary_share:
            return self.canary
        return self.stable

    def check(self, served: Collection[str]) -> Self:
        """This release, if its models are served.

        Raises:
            ConfigError: one is not; says which are.
        """
        for name in (self.stable, self.canary):
            if name is not None and name not in served:
                raise ConfigError(
                    f"the release names the model {name}, but {', '.join(sorted(served))} are "
                    "served; add it to `more_models` and deploy, or release one that is served"
                )
        return self

    def with_canary(self, name: str, share: float) -> Release:
        """`name` for a share of users."""
        return Release(stable=self.stable, canary=name, canary_share=share, previous=self.previous)

    def promoted(self, name: str) -> Release:
        """`name` for everybody."""
        return Release(stable=name, previous=self.stable if name != self.stable else self.previous)

    def rolled_back(self) -> Release:
        """Without the canary if there is one, else what was stable before.

        What was undone cannot be undone again, so a rollback that is repeated in a hurry goes
        neither back to the bad model nor to one before the good one.

        Raises:
            ConfigError: there is nothing to undo.
        """
        if self.canary is not None:
            return Release(stable=self.stable)
        if self.previous is None:
            raise ConfigError(
                f"nothing to undo: {self.stable} is the first release, or the last step was rolled "
                "back already; to release another model name it: --model NAME"
            )
        return Release(stable=self.previous)


def read_release(path: Path) -> Release:
    """The release that a file holds.

    Raises:
        ConfigError: it is absent or malformed.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the release file {path} cannot be read ({error}); `python -m jobs.promote` writes it"
        ) from error
    if not isinstance(data, dict):
        raise ConfigError(f"the release file {path} holds no object; see `jobs.promote`")
    return parse_config(Release, data, source=str(path))


def write_release(path: Path, release: Release) -> None:
    """Replace a release file; readers see the old one or the new one.

    Raises:
        StorageError: the file system refused.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing_file(path) as file:
            file.write(json.dumps(release.model_dump(), indent=2).encode() + b"\n")
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error}; check space and permissions") from error


def _place(user: str) -> float:
    """A user's fixed place in [0, 1)."""
    digest = hashlib.sha256(f"release\n{user}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
