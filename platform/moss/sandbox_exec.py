"""Lock this process down, then become another program.

Usage: python -I -S sandbox_exec.py '{"platform": "...", "packages": "...", "lockdown": {}}' PROGRAM

`launcher_for` makes an executable file that does this, for pools that start workers by path.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import stat
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moss.sandbox import Lockdown


def launcher_for(program: str, lockdown: Lockdown) -> Path:
    """An executable that runs `program` with its arguments under `lockdown`.

    It lies in a folder of the system's temporary one that only this user may enter, under a name
    made from its content: killed processes leave nothing behind that the next one does not use.

    Args:
        program: absolute path; its folder is made readable.
        lockdown: limits of the program.
    Raises:
        ResourceError: the folder belongs to someone else.
    """
    import pyseccomp

    plan = {
        "platform": str(Path(__file__).resolve().parents[1]),
        "packages": str(Path(pyseccomp.__file__).resolve().parent),
        "lockdown": asdict(lockdown),
    }
    words = [sys.executable, "-I", "-S", str(Path(__file__).resolve()), json.dumps(plan), program]
    script = f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n'
    path = _private_folder() / hashlib.sha256(script.encode()).hexdigest()[:32]
    if not path.exists():
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        temporary.write_text(script, encoding="utf-8")
        temporary.chmod(0o700)
        temporary.replace(path)
    return path


def _private_folder() -> Path:
    from moss.errors import ResourceError

    folder = Path(tempfile.gettempdir()) / f"moss-launchers-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    is_ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
    if not is_ours or status.st_mode & 0o077:
        raise ResourceError(
            f"{folder} is not a folder of this user alone, so programs in it cannot be trusted; "
            "remove it, or set TMPDIR to another place"
        )
    return folder


def main(argv: Sequence[str]) -> None:
    """Apply the plan in the first argument and exec the rest with an empty environment."""
    plan = json.loads(argv[0])
    sys.path[:0] = [plan["platform"], plan["packages"]]
    from moss.sandbox import Lockdown, lock_down

    settings = plan["lockdown"]
    lock_down(Lockdown(**{**settings, "readable": tuple(settings["readable"])}))
    os.execve(argv[1], list(argv[1:]), {})


if __name__ == "__main__":
    main(sys.argv[1:])
