"""Equation solver: SymPy behind a zygote that forks one locked-down child per equation.

Polynomials in one unknown, linear and simple non-linear systems, trigonometric equations (paper
section 8.2). `moss.tools.equations` reads and solves, `moss.tools.solver_zygote` isolates; this
module starts the zygote at the first call, replaces it if it dies, and lays results out.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from concurrent.futures import Future
from pathlib import Path
from weakref import WeakKeyDictionary

from moss.config.tools import SolverConfig, ToolsConfig
from moss.sandbox import require_seccomp
from moss.tools.base import ToolOutput
from moss.types import ToolName

_ENDED = (False, "the solver process ended")


class _Zygote:
    """One zygote process and the answers it still owes; a thread of its own delivers them."""

    def __init__(self, config: SolverConfig) -> None:
        module = Path(__file__).resolve()
        plan = {
            "platform": str(module.parents[2]),
            "timeout_s": config.timeout_s,
            "memory_bytes": config.memory_bytes,
        }
        command = [
            sys.executable,
            "-I",
            str(module.with_name("solver_zygote.py")),
            json.dumps(plan),
        ]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={},
            start_new_session=True,
        )
        self.ready: Future[bool] = Future()
        self._waiting: dict[int, Future[tuple[bool, str]]] = {}
        self._next_id = 0
        self._ended = False
        self._lock = threading.Lock()
        self._reader = threading.Thread(target=self._read, name="solver-answers", daemon=True)
        self._reader.start()

    @property
    def alive(self) -> bool:
        """Whether it can take another equation."""
        return not self._ended and self.process.poll() is None

    def ask(self, equation: str) -> Future[tuple[bool, str]]:
        """Whether it was solved, and the solution or the reason; the future never fails."""
        assert self.process.stdin is not None
        answer: Future[tuple[bool, str]] = Future()
        with self._lock:
            self._next_id += 1
            self._waiting[self._next_id] = answer
            line = json.dumps({"id": self._next_id, "equation": equation}) + "\n"
            try:
                self.process.stdin.write(line.encode())
                self.process.stdin.flush()
            except (OSError, ValueError):
                del self._waiting[self._next_id]
                answer.set_result(_ENDED)
        return answer

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            message = json.loads(line)
            if "ready" in message:
                self.ready.set_result(True)
                continue
            with self._lock:
                answer = self._waiting.pop(message["id"])
            if answer.set_running_or_notify_cancel():
                answer.set_result((message["ok"], message["text"]))
        self._ended = True
        if not self.ready.done():
            self.ready.set_result(False)
        with self._lock:
            left, self._waiting = list(self._waiting.values()), {}
        for answer in left:
            if answer.set_running_or_notify_cancel():
                answer.set_result(_ENDED)

    def end(self) -> None:
        """Close its input, on which it ends, and reap it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join(timeout=5.0)
        self.process.stdout.close()


class Solver:
    """Solves equations in locked-down processes.

    Raises (constructor):
        ResourceError: seccomp is missing.
    """

    name: ToolName = "equation_solver"

    def __init__(self, config: SolverConfig) -> None:
        require_seccomp()
        self.config = config
        self.timeout_s = config.call_timeout_s
        self._zygote: _Zygote | None = None
        self._starting = threading.Lock()
        self._slots: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = (
            WeakKeyDictionary()
        )

    async def call(self, argument: str) -> ToolOutput:
        """Solutions of `argument`, one per line; see `moss.tools.equations.solve_text`."""
        if len(argument) > self.config.max_equation_chars:
            return self._failed(f"longer than {self.config.max_equation_chars} characters")
        zygote = self._started_zygote()
        try:
            ready = asyncio.shield(asyncio.wrap_future(zygote.ready))
            if not await asyncio.wait_for(ready, self.config.start_timeout_s):
                return self._failed("the solver process ended while it loaded SymPy")
            async with self._slots_of_this_loop():
                answer = asyncio.wrap_future(zygote.ask(argument))
                ok, text = await asyncio.wait_for(answer, self.config.timeout_s + 2.0)
        except TimeoutError:
            zygote.process.kill()
            return self._failed("the solver process gave no answer")
        if not ok or not text:
            return self._failed(text or "no solution was found")
        if len(text) > self.config.max_result_chars:
            return self._failed(f"a solution of {len(text)} characters")
        return ToolOutput(ok=True, layout="plain", text=text)

    def _slots_of_this_loop(self) -> asyncio.Semaphore:
        slots = asyncio.Semaphore(self.config.num_workers)
        return self._slots.setdefault(asyncio.get_running_loop(), slots)

    def _failed(self, reason: str) -> ToolOutput:
        return ToolOutput(ok=False, layout="plain", reason=reason)

    def _started_zygote(self) -> _Zygote:
        with self._starting:
            if self._zygote is None or not self._zygote.alive:
                if self._zygote is not None:
                    self._zygote.end()
                self._zygote = _Zygote(self.config)
            return self._zygote

    async def close(self) -> None:
        """End the zygote."""
        with self._starting:
            zygote, self._zygote = self._zygote, None
        if zygote is not None:
            await asyncio.to_thread(zygote.end)


def build(config: ToolsConfig) -> Solver:
    """Build the solver of a tools configuration."""
    return Solver(config.equation_solver)
