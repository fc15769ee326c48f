"""docs/architecture.md names every module, and nothing that is not there."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
NAMED = set(re.findall(r"`([\w/.]+\.py)`", PAGE)) - {"platform/__init__.py"}  # said to be absent


def test_every_module_is_named() -> None:
    folders = ("platform/moss", "actors", "serve", "benchmarks")
    modules = [file for folder in folders for file in (ROOT / folder).glob("*.py")]
    helpers = [
        file
        for file in (ROOT / "jobs").glob("*.py")
        if "CONFIG_CLASS =" not in file.read_text(encoding="utf-8")
    ]
    names = {file.name for file in modules + helpers} - {"__init__.py"}
    assert names - {Path(name).name for name in NAMED} == set()


def test_every_named_module_is_there() -> None:
    tracked = [
        file.relative_to(ROOT).as_posix()
        for folder in ("platform", "actors", "serve", "jobs", "benchmarks", "tests")
        for file in (ROOT / folder).rglob("*.py")
    ]
    missing = {
        name for name in NAMED if not any(f"/{path}".endswith(f"/{name}") for path in tracked)
    }
    assert missing == set()
