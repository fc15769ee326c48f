"""Lock this process down, then become another program.

Usage: python -I -S sandbox_exec.py '{"platform": "...", "packages": "...", "lockdown": {}}' PROGRAM

`write_launcher` makes an executable file that does this, for pools that start workers by path.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moss.sandbox import Lockdown


def write_launcher(path: Path, program: str, lockdown: Lockdown) -> None:
    """Write an executable that runs `program` with its arguments under `lockdown`.

    Args:
        path: file to create; its folder must be private to this process.
        program: absolute path; its folder is made readable.
        lockdown: limits of the program.
    """
    import pyseccomp

    plan = {
        "platform": str(Path(__file__).resolve().parents[1]),
        "packages": str(Path(pyseccomp.__file__).resolve().parent),
        "lockdown": asdict(lockdown),
    }
    words = [sys.executable, "-I", "-S", str(Path(__file__).resolve()), json.dumps(plan), program]
    path.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n', encoding="utf-8")
    path.chmod(0o700)


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
