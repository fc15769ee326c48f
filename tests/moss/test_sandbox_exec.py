from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from moss.errors import ResourceError
from moss.sandbox import Lockdown
from moss.sandbox_exec import launcher_for

LOCKDOWN = Lockdown(
    cpu_s=5, memory_bytes=1 << 30, readable=("/lib", "/lib64", "/usr/lib", "/usr/bin", "/bin"),
    may_exec=True,
)  # fmt: skip


def test_the_program_runs_locked_down_with_an_empty_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    echo = launcher_for("/bin/echo", LOCKDOWN)
    assert launcher_for("/bin/echo", LOCKDOWN) == echo
    done = subprocess.run([echo, "hello"], capture_output=True, timeout=60, check=True)
    assert done.stdout == b"hello\n"
    cat = launcher_for("/bin/cat", LOCKDOWN)
    refused = subprocess.run([cat, "/etc/passwd"], capture_output=True, timeout=60, check=False)
    assert (refused.returncode, refused.stdout) == (1, b"")
    environment = launcher_for("/usr/bin/env", LOCKDOWN)
    done = subprocess.run([environment], capture_output=True, timeout=60, check=True)
    assert done.stdout == b""


def test_a_folder_that_others_may_write_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / f"moss-launchers-{os.getuid()}").mkdir(mode=0o700)
    (tmp_path / f"moss-launchers-{os.getuid()}").chmod(0o777)
    with pytest.raises(ResourceError, match="cannot be trusted"):
        launcher_for("/bin/echo", LOCKDOWN)
