"""The lockdown is applied in child processes; hostile code there gets nothing out."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from moss import sandbox
from moss.errors import ResourceError

PLATFORM = Path(sandbox.__file__).resolve().parents[1]

PRELUDE = """
import ctypes, fcntl, os, resource, socket
libc = ctypes.CDLL(None)
def sure(done):
    assert done
    return done
"""
RUNNER = """
import json, os, sys, sysconfig
sys.path[:0] = [{platform!r}]
from moss.sandbox import Lockdown, lock_down
readable = tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib"))
lock_down(Lockdown(cpu_s=2, memory_bytes=1 << 30, readable=readable))
try:
    outcome = "GOT " + str(attack())
except BaseException as error:
    outcome = "refused " + type(error).__name__
os.write(1, outcome[:2000].encode())
os._exit(0)
"""

ATTACKS = {
    "read a file": "return open('/etc/passwd').read()",
    "read by descriptor": "return os.read(os.open('/etc/hostname', os.O_RDONLY), 99)",
    "read own memory map": "return open('/proc/self/maps').read(9)",
    "read the parent's environment": "return open('/proc/%d/environ' % os.getppid()).read()",
    "list a folder": "return os.listdir('/')",
    "write a file": "return open(SCRATCH + '/x', 'w').write('x')",
    "truncate a library": "return os.open(os.__file__, os.O_RDONLY | os.O_TRUNC)",
    "make a folder": "return os.mkdir(SCRATCH + '/d')",
    "delete a file": "return os.unlink(SCRATCH + '/precious')",
    "rename a file": "return os.rename(SCRATCH + '/precious', SCRATCH + '/y')",
    "change rights": "return os.chmod(SCRATCH + '/precious', 0o777)",
    "link a file": "return os.symlink('/etc/passwd', SCRATCH + '/l')",
    "run a program": "return os.execv('/bin/true', ['true'])",
    "start a process": "import subprocess; return subprocess.run(['id'], capture_output=True)",
    "fork": "return os.fork()",
    "fork past glibc": "return sure(libc.syscall(56, 17, 0, 0, 0, 0) > 0)",
    "start a thread": "import _thread; return _thread.start_new_thread(print, ())",
    "open a socket": "return socket.create_connection(('127.0.0.1', PORT), 2)",
    "send a datagram": "return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "open a unix socket": "return socket.socket(socket.AF_UNIX)",
    "signal the parent": "return os.kill(os.getppid(), 0)",
    "signal by descriptor": "return fcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, os.getppid())",
    "trace the parent": "return sure(libc.ptrace(16, os.getppid(), 0, 0) == 0)",
    "raise its limits": "return resource.setrlimit(resource.RLIMIT_CPU, (99, 99))",
    "become another user": "return os.setuid(0)",
    "make memory files": "return os.memfd_create('x')",
    "new namespaces": "return sure(libc.unshare(0x10000000) == 0)",
    "mount": "return sure(libc.mount(b'none', b'/mnt', b'tmpfs', 0, 0) == 0)",
    "lift the filter": "return sure(libc.prctl(22, 0, 0, 0, 0) == 0)",
}


def run(body: str, tmp_path: Path, port: int = 0) -> tuple[str, float]:
    """Output of `attack` in a locked-down process, and seconds."""
    source = f"SCRATCH, PORT = {str(tmp_path)!r}, {port}\n{PRELUDE}def attack():\n    {body}\n"
    source += RUNNER.format(platform=str(PLATFORM))
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, timeout=60, env={}, check=False
    )
    return done.stdout.decode(), time.monotonic() - started


@pytest.mark.parametrize("body", ATTACKS.values(), ids=ATTACKS.keys())
def test_nothing_gets_out(body: str, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("keep")
    precious.chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.01)
        outcome, _ = run(body, tmp_path, server.getsockname()[1])
        with pytest.raises(TimeoutError):
            server.accept()
    assert not outcome.startswith("GOT"), outcome
    assert [file.name for file in tmp_path.iterdir()] == ["precious"]
    assert precious.read_text() == "keep"
    assert precious.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "bomb",
    [
        "while True: pass",
        "return 'x' * 10**10",
        "return 9**9**9",
        "return [[] for _ in iter(int, 1)]",
    ],
)
def test_bombs_end_at_their_limits(bomb: str, tmp_path: Path) -> None:
    outcome, seconds = run(bomb, tmp_path)
    assert not outcome.startswith("GOT")
    assert seconds < 50


def test_honest_work_goes_on(tmp_path: Path) -> None:
    body = "import decimal, json; return json.dumps(str(decimal.Decimal(2).sqrt()))"
    outcome, _ = run(body, tmp_path)
    assert json.loads(outcome.removeprefix("GOT ")).startswith("1.414")


def test_a_machine_without_seccomp_is_refused_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pyseccomp", None)
    with pytest.raises(ResourceError, match="libseccomp2"):
        sandbox.require_seccomp()


def test_without_landlock_no_file_opens(tmp_path: Path) -> None:
    prefix = "import moss.sandbox as s; s.landlock_abi = lambda: 0"
    source = f"import sys; sys.path[:0] = [{str(PLATFORM)!r}]\n{prefix}\n"
    source += "def attack():\n    return open('/etc/passwd').read()\n"
    source += RUNNER.format(platform=str(PLATFORM))
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, timeout=60, check=False,
        env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert done.stdout.decode() == "refused PermissionError", done.stderr
