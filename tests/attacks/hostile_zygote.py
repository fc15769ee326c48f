"""The solver's real zygote, its equations replaced by arbitrary Python: a reader that was broken.

Usage: python -I hostile_zygote.py '{"platform": ..., "packages": ..., ...}'   (see solver_zygote)
"""

from __future__ import annotations

import ctypes
import json
import sys
import types

_LIBC = ctypes.CDLL(None, use_errno=True)


def system_call(number: int, *arguments: object) -> int:
    """A raw system call; raises where the kernel refuses."""
    result = int(_LIBC.syscall(number, *arguments))
    if result < 0:
        raise PermissionError(ctypes.get_errno())
    return result


def run(source: str) -> str:
    """What an attack has returned, as text."""
    scope: dict[str, object] = {"call": system_call, "libc": _LIBC, "ctypes": ctypes}
    body = "\n".join(f"    {line}" for line in source.splitlines())
    exec(f"def attack():\n{body}\n", scope)
    return str(scope["attack"]())  # type: ignore[operator]


def main() -> None:
    plan = json.loads(sys.argv[1])
    sys.path[:0] = [plan["platform"], plan["packages"]]
    equations = types.ModuleType("moss.tools.equations")
    equations.solve_text = run  # type: ignore[attr-defined]
    sys.modules["moss.tools.equations"] = equations
    from moss.tools import solver_zygote

    solver_zygote._WARM_UP = ()  # type: ignore[assignment]
    solver_zygote.main([sys.argv[1]])


if __name__ == "__main__":
    main()
