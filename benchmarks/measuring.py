"""CPU time of a process and all it started, and the figures of one client's run."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import psutil

from benchmarks.fake_endpoint import Running

FINISH_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Measured:
    """One client at one concurrency."""

    client: str
    concurrency: int
    num_calls: int
    rate_per_s: float
    """Good answers between the first request and the last answer, as the endpoint saw them."""
    limit_per_s: float
    cpu_s: float
    """From the first request until the client had all answers."""
    startup_s: float
    """From the start of the client until its first request."""
    others_cores: float
    """Cores that programs outside this measurement used meanwhile; rates are floors if high."""

    @property
    def share_of_limit(self) -> float:
        """Of what `concurrency` requests at the endpoint's latency can reach."""
        return self.rate_per_s / self.limit_per_s

    @property
    def cpu_s_per_1000(self) -> float:
        """CPU seconds per 1,000 calls."""
        return 1000 * self.cpu_s / self.num_calls


class CpuClock:
    """CPU seconds of this process and its descendants, those that ended meanwhile included."""

    def __init__(self, exclude_pid: int) -> None:
        self._exclude = exclude_pid
        self._last: dict[int, float] = {}
        self._ended = 0.0

    def seconds(self) -> float:
        """So far; differences of two calls count."""
        me = psutil.Process()
        now: dict[int, float] = {}
        for process in [me, *me.children(recursive=True)]:
            if process.pid != self._exclude:
                with contextlib.suppress(psutil.Error):
                    times = process.cpu_times()
                    now[process.pid] = times.user + times.system
        self._ended += sum(s for pid, s in self._last.items() if pid not in now)
        self._last = now
        return self._ended + sum(now.values())


def measure(
    client: str,
    endpoint: Running,
    work: Callable[[], None],
    *,
    concurrency: int,
    num_calls: int,
    latency_s: float,
    surroundings: AbstractContextManager[None] | None = None,
) -> Measured:
    """Run `work`, which makes `num_calls` calls, and look at it from outside.

    Args:
        surroundings: what `work` needs; its start counts as start-up, its end not at all.
    """
    clock = CpuClock(endpoint.process.pid)
    at_first: list[tuple[float, float, float]] = []

    def watch() -> None:
        assert json.loads(endpoint.events.readline())["event"] == "first"
        at_first.append((time.monotonic(), clock.seconds(), machine_cpu_s()))
        assert json.loads(endpoint.events.readline())["event"] == "last"

    endpoint.reset(expect=num_calls)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    started = time.monotonic()
    server = psutil.Process(endpoint.process.pid)
    server_before = sum(server.cpu_times()[:2])
    with surroundings or contextlib.nullcontext():
        work()
        finished = time.monotonic()
        watcher.join(FINISH_TIMEOUT_S)
        first_at, cpu_before, machine_before = at_first[0]
        cpu_s = clock.seconds() - cpu_before
        server_s = sum(server.cpu_times()[:2]) - server_before
        others_s = machine_cpu_s() - machine_before - cpu_s - server_s
    return Measured(
        client=client,
        concurrency=concurrency,
        num_calls=num_calls,
        rate_per_s=num_calls / endpoint.stats()["span_s"],
        limit_per_s=concurrency / latency_s,
        cpu_s=cpu_s,
        startup_s=first_at - started,
        others_cores=max(0.0, others_s) / (finished - first_at),
    )


def machine_cpu_s() -> float:
    """CPU seconds that all programs of the machine have used."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system)


def table(rows: list[Measured]) -> str:
    """The figures, one line per client."""
    head = f"{'client':<16}{'in flight':>10}{'req/s':>8}{'of limit':>10}{'CPU s/1000':>12}"
    lines = [head + f"{'start-up s':>12}{'others, cores':>15}"]
    for row in rows:
        lines.append(
            f"{row.client:<16}{row.concurrency:>10}{row.rate_per_s:>8.0f}"
            f"{row.share_of_limit:>10.1%}{row.cpu_s_per_1000:>12.2f}{row.startup_s:>12.1f}"
            f"{row.others_cores:>15.2f}"
        )
    return "\n".join(lines)
