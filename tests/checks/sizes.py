"""Holds modules to 300 lines and functions to 60; run by `make check`.

Usage: python tests/checks/sizes.py [ROOT]
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

MAX_MODULE_LINES = 300
MAX_FUNCTION_LINES = 60
FOLDERS = ("platform/moss", "actors", "jobs", "serve")


def oversized(root: Path) -> list[str]:
    """One line for each module or function of `root` that is too long."""
    files = (file for name in FOLDERS for file in sorted((root / name).rglob("*.py")))
    return [fault for file in files for fault in faults(file, file.relative_to(root).as_posix())]


def faults(file: Path, name: str) -> Iterator[str]:
    """What is too long in one file; `name` stands for it in messages."""
    source = file.read_text(encoding="utf-8")
    num_lines = len(source.splitlines())
    if num_lines > MAX_MODULE_LINES:
        yield f"{name}: {num_lines} lines, at most {MAX_MODULE_LINES}; split the module"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                yield (
                    f"{name}:{node.lineno}: {node.name} has {length} lines, "
                    f"at most {MAX_FUNCTION_LINES}; split the function"
                )


def main() -> int:
    """Print the faults; 1 if there are any."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[2]
    found = oversized(root)
    print("\n".join(found) or "sizes: all within limits")
    return int(bool(found))


if __name__ == "__main__":
    raise SystemExit(main())
