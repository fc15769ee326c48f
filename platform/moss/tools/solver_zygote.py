"""The solver's zygote: loads SymPy once, then forks a locked-down child per equation.

Usage: python -I solver_zygote.py '{"platform": ..., "timeout_s": ..., "memory_bytes": ...}'

Reads lines `{"id": 1, "equation": "3x+4=19"}` from standard input, writes lines
`{"id": 1, "ok": true, "text": "x = 5"}` to standard output, `{"ready": true}` first. It runs one
thread, so forking is safe; it is started by exec, never forked from a process with threads.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import sys
import sysconfig
import time
from collections.abc import Sequence
from dataclasses import dataclass

_WARM_UP = ("3x+4=19", "x^2-5x+6=0", "x+y=5,x-y=1", "sin(x)=1/2", "sin(2x)=cos(x)", "x^5-x=1")
_MAX_ANSWER_BYTES = 16 * 1024


@dataclass(slots=True)
class _Child:
    request_id: int
    pid: int
    deadline: float
    answer: bytes = b""


def main(argv: Sequence[str]) -> None:
    """Serve until standard input closes."""
    plan = json.loads(argv[0])
    sys.path.insert(0, plan["platform"])
    os.environ.clear()
    from moss.tools.equations import solve_text

    for equation in _WARM_UP:  # SymPy imports on demand; this loads what most equations need
        solve_text(equation)
    gc.collect()
    gc.freeze()
    _write({"ready": True})
    _serve(float(plan["timeout_s"]), int(plan["memory_bytes"]))


def _write(message: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _serve(timeout_s: float, memory_bytes: int) -> None:
    children: dict[int, _Child] = {}
    pending = b""
    is_open = True
    while is_open or children:
        readable = [*children, *([0] if is_open else [])]
        ready, _, _ = select.select(readable, [], [], _seconds_left(children))
        if 0 in ready:
            chunk = os.read(0, 65_536)
            is_open = bool(chunk)
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                request = json.loads(line)
                pipe_fd, child = _fork_child(request, timeout_s, memory_bytes, list(children))
                children[pipe_fd] = child
        for pipe_fd in [fd for fd in ready if fd in children]:
            child = children[pipe_fd]
            chunk = os.read(pipe_fd, 65_536)
            child.answer += chunk
            if not chunk or len(child.answer) > _MAX_ANSWER_BYTES:
                _finish(pipe_fd, children.pop(pipe_fd), "the process ended without an answer")
        now = time.monotonic()
        for pipe_fd in [fd for fd, child in children.items() if child.deadline <= now]:
            children[pipe_fd].answer = b""
            _finish(pipe_fd, children.pop(pipe_fd), f"no answer within {timeout_s:g} s")


def _seconds_left(children: dict[int, _Child]) -> float | None:
    if not children:
        return None
    return max(0.0, min(child.deadline for child in children.values()) - time.monotonic())


def _finish(pipe_fd: int, child: _Child, failure: str) -> None:
    """End the child, reap it, and pass its answer on."""
    os.kill(child.pid, signal.SIGKILL)
    os.waitpid(child.pid, 0)
    os.close(pipe_fd)
    try:
        answer = json.loads(child.answer)
        message = {"ok": bool(answer["ok"]), "text": str(answer["text"])}
    except (ValueError, KeyError, TypeError):
        message = {"ok": False, "text": failure}
    _write({"id": child.request_id, **message})


def _fork_child(
    request: dict[str, object], timeout_s: float, memory_bytes: int, other_pipes: list[int]
) -> tuple[int, _Child]:
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        for fd in (0, 1, read_fd, *other_pipes):
            os.close(fd)
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 2)  # the service's log is not the child's to fill
        os.close(silence)
        _run_child(str(request["equation"]), write_fd, timeout_s, memory_bytes)
    os.close(write_fd)
    return read_fd, _Child(int(str(request["id"])), pid, time.monotonic() + timeout_s)


def _run_child(equation: str, write_fd: int, timeout_s: float, memory_bytes: int) -> None:
    """Lock down, solve, answer, exit; never returns."""
    status = 1
    try:
        from moss.sandbox import Lockdown, lock_down
        from moss.tools.equations import solve_text

        libraries = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})
        lock_down(
            Lockdown(
                cpu_s=max(1, round(timeout_s) + 1), memory_bytes=memory_bytes, readable=libraries
            )
        )
        try:
            answer = {"ok": True, "text": solve_text(equation)}
        except BaseException as error:
            answer = {"ok": False, "text": f"{type(error).__name__}: {error}"[:500]}
        os.write(write_fd, json.dumps(answer).encode()[:_MAX_ANSWER_BYTES])
        status = 0
    finally:
        os._exit(status)


if __name__ == "__main__":
    main(sys.argv[1:])
