"""Fixtures for storage and runs: places to write to, and processes killed at a failpoint."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

KillAt = Callable[[str, Sequence[str]], dict[str, Path]]

# One process imports everything once, then forks a child per failpoint. It has no threads yet.
_DRIVER = """
import json, os, sys
{body}
codes = {{}}
for point, folder in json.loads(sys.argv[1]).items():
    child = os.fork()
    if child == 0:
        os.environ["MOSS_FAILPOINT"] = point
        try:
            body(folder)
        finally:
            os._exit(0)
    codes[point] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(json.dumps(codes))
"""


@pytest.fixture(params=["local", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty folder, once on the local disk and once on an object-store-like file system."""
    if request.param == "local":
        yield str(tmp_path)
        return
    import fsspec

    yield f"memory://{tmp_path.name}"
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def kill_at(tmp_path: Path) -> KillAt:
    """Run the `body(folder)` of a script once per failpoint, each killed there; point -> folder."""

    def run(body: str, points: Sequence[str]) -> dict[str, Path]:
        folders = {point: tmp_path / str(number) for number, point in enumerate(points)}
        done = subprocess.run(
            [sys.executable, "-c", _DRIVER.format(body=body), json.dumps(folders, default=str)],
            capture_output=True,
            text=True,
            timeout=120,
            env={"PYTHONPATH": "platform", "PATH": "/usr/bin:/bin"},
            check=True,
        )
        codes = json.loads(done.stdout)
        assert codes == dict.fromkeys(points, -signal.SIGKILL), done.stderr
        return folders

    return run
