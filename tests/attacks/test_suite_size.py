from __future__ import annotations

import importlib
from pathlib import Path

from tests.attacks.counting import NUM_CASES


def test_the_suite_tries_at_least_150_attacks() -> None:
    for file in sorted(Path(__file__).parent.glob("test_*.py")):
        importlib.import_module(f"tests.attacks.{file.stem}")
    assert sum(NUM_CASES.values()) >= 150, NUM_CASES
    assert min(NUM_CASES.values()) > 0
    assert len(NUM_CASES) >= 15
