import subprocess
import sys

import pytest

from moss.failpoints import failpoint


def test_failpoints_do_nothing_unless_the_environment_names_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MOSS_FAILPOINT", raising=False)
    failpoint("storage/renamed")
    monkeypatch.setenv("MOSS_FAILPOINT", "another/point")
    failpoint("storage/renamed")


def test_the_process_dies_by_sigkill_at_the_visit_that_is_named() -> None:
    script = (
        "from moss.failpoints import failpoint\n"
        "for visit in range(1, 5): print(visit, flush=True); failpoint('a/b')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PYTHONPATH": "platform", "MOSS_FAILPOINT": "a/b:3"},
    )
    assert done.returncode == -9
    assert done.stdout.split() == ["1", "2", "3"]
