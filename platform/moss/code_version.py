"""Which code made a run: the git commit where there is one, else the package and its sources."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import subprocess
from pathlib import Path

_GIT_TIMEOUT_S = 5.0
_PACKAGE = Path(__file__).resolve().parent


@functools.cache
def code_version() -> str:
    """`git describe` of this tree, or `<package version>+src.<digest of moss's sources>`.

    The second form is what a Ray job reports, whose working directory is uploaded without `.git`.
    """
    return _git_describe(_PACKAGE.parent.parent) or f"{_package_version()}+src.{_sources_digest()}"


def _git_describe(root: Path) -> str | None:
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--tags", "--abbrev=12"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_GIT_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None  # no git program, or a tree that git refuses to read: the sources still tell
    return done.stdout.strip() or None


def _package_version() -> str:
    try:
        return importlib.metadata.version("moss-platform")
    except importlib.metadata.PackageNotFoundError:
        return "0"


def _sources_digest() -> str:
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        digest.update(path.relative_to(_PACKAGE).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
