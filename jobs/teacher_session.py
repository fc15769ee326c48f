"""The LLM endpoint of one job: the configured one, or an offline teacher that lives as long."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from actors.ports import free_ports
from moss.config.teacher import TeacherConfig
from moss.errors import TeacherUnavailableError

BASE_URL_ENV = "TEACHER_BASE_URL"

_START_TIMEOUT_S = 60.0
_END_TIMEOUT_S = 10.0
_POLL_S = 0.1
_PROBE_TIMEOUT_S = 2.0
_LOG_TAIL_CHARS = 1500
_PR_SET_PDEATHSIG = 1
_ROOT = Path(__file__).resolve().parent.parent


def configured_base_url(config: TeacherConfig) -> str | None:
    """The endpoint that the config or else `TEACHER_BASE_URL` names; None means the offline one."""
    return config.base_url or os.environ.get(BASE_URL_ENV) or None


@contextmanager
def teacher_endpoint(config: TeacherConfig) -> Iterator[TeacherConfig]:
    """The config with a base URL that answered, while the block runs.

    Raises:
        TeacherUnavailableError: the endpoint does not answer or the offline teacher did not start.
        TeacherAuthError: the endpoint refuses the key.
    """
    from moss.endpoint import check_endpoint

    base_url = configured_base_url(config)
    if base_url is not None:
        resolved = config.with_base_url(base_url)
        check_endpoint(resolved)
        yield resolved
        return
    port = free_ports(["teacher"])["teacher"]
    with tempfile.TemporaryFile() as log:
        child = _start_offline_teacher(port, log.fileno())
        try:
            resolved = config.with_base_url(f"http://127.0.0.1:{port}/v1")
            if not _answers(f"{resolved.base_url}/models", child):
                raise TeacherUnavailableError(_describe_failure(child, port, log))
            yield resolved
        finally:
            _end(child)


def _start_offline_teacher(port: int, log: int) -> subprocess.Popen[bytes]:
    libc = ctypes.CDLL(None)

    def end_with_parent() -> None:
        # A job killed with SIGKILL runs no cleanup; the kernel then ends its teacher.
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    return subprocess.Popen(
        [sys.executable, "-m", "serve.teacher_app", "--port", str(port)],
        cwd=_ROOT,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        preexec_fn=end_with_parent,
    )


def _answers(url: str, child: subprocess.Popen[bytes]) -> bool:
    """Whether the child serves `url` in time."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline and child.poll() is None:
        try:
            opener.open(url, timeout=_PROBE_TIMEOUT_S).close()
            return True
        except OSError:
            time.sleep(_POLL_S)
    return False


def _describe_failure(child: subprocess.Popen[bytes], port: int, log: IO[bytes]) -> str:
    code = child.poll()
    how = f"did not answer within {_START_TIMEOUT_S:g} s" if code is None else f"ended with {code}"
    log.seek(0)
    tail = log.read().decode(errors="replace")[-_LOG_TAIL_CHARS:]
    command = f"python -m serve.teacher_app --port {port}"
    return f"the offline teacher {how}; start it alone to see why: {command}\n{tail}"


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(_END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait(_END_TIMEOUT_S)
