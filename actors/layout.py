"""Refuses to run code of two different trees: `jobs` and `actors` of one, `moss` of another.

A cluster may have this project installed while a job brings a newer working directory. Without
`py_modules`, Ray then takes `jobs` and `actors` from the upload and `moss` from the installed copy.
"""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from moss.errors import LayoutError

RUNTIME_ENV = "platform/runtime_env.yaml"

RAY_PY_MODULES = "py_modules_files"
"""Folder in which Ray unpacks what a runtime env's `py_modules` uploaded."""


def check_layout() -> None:
    """Compare where `moss`, `jobs` and `actors` were loaded from.

    Raises:
        LayoutError: they belong to different trees.
    """
    # Found, not imported: actors stand below jobs.
    check_roots(moss=_folder("moss"), actors=_folder("actors"), jobs=_folder("jobs"))


def check_roots(*, moss: Path, actors: Path, jobs: Path) -> None:
    """`check_layout` on given package folders.

    A wheel holds all three side by side; a checkout holds `moss` under `platform/`; a submitted job
    gets `moss` in a folder of its own, which must equal the `platform/moss` of the same upload.

    Raises:
        LayoutError: they belong to different trees.
    """
    root = jobs.parent
    if actors.parent != root:
        raise LayoutError(
            f"jobs comes from {jobs} but actors from {actors}; run from the root of one checkout, "
            "and remove the other from PYTHONPATH or uninstall it"
        )
    if moss in (root / "platform" / "moss", root / "moss"):
        return
    beside = root / "platform" / "moss"
    uploaded = RAY_PY_MODULES in moss.parts
    if uploaded and (not beside.is_dir() or tree_digest(beside) == tree_digest(moss)):
        return
    raise LayoutError(
        f"moss comes from {moss} but jobs and actors from {root}: two different trees. Submit with "
        f"--working-dir . --runtime-env {RUNTIME_ENV} (which uploads platform/moss beside them), "
        "or run from the root of one checkout, with its own .venv and without PYTHONPATH"
    )


def tree_digest(folder: Path) -> str:
    """sha256 over the relative names and bytes of a package's Python files, hex."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(file.relative_to(folder).as_posix().encode() + b"\0")
        digest.update(file.read_bytes() + b"\0")
    return digest.hexdigest()


def _folder(package: str) -> Path:
    """Where the interpreter takes a top-level package from."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise LayoutError(
            f"the package {package} is not on the path; run from the root of a checkout, or "
            f"submit with --working-dir . --runtime-env {RUNTIME_ENV}"
        )
    return Path(spec.origin).resolve().parent
