"""kill -9 of a caller, of a node, or of the driver, at random moments, and what the resume pays.

    python -m benchmarks.synthesis_kills --times 10

Each round runs a job, kills one process of it, runs the job again on the same ledger, and compares
with an undisturbed run. A line tells of each round; what the runs and Ray print is kept aside, and
shown where a run leaves no rows. The last line is one JSON object: per victim the rounds whose
output was equal, and the most answers that were sold again. Exit code 1: an output was not equal,
or more was sold again than was in flight.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

import psutil

from benchmarks.fake_endpoint import Running, running
from moss.config.synthesis import CallerConfig

Victim = Literal["caller", "node", "driver"]
ROOT = Path(__file__).resolve().parents[1]
RUN_TIMEOUT_S = 300
CONCURRENCY = 16
LOG_TAIL_CHARACTERS = 3000
LATENCY_S = 0.1


def driver(base_url: str, folder: str, num_calls: int, *, with_node: bool) -> None:
    """One run of the job, in a process of its own; writes its rows to `folder`/rows.json."""
    from benchmarks.synthesis import ray_environment
    from benchmarks.synthesis_job import Job

    ray_environment()
    with job_cluster(with_node=with_node) as node_pid:
        if node_pid is not None:
            Path(folder, "node.pid").write_text(str(node_pid))
        job = Job(
            base_url,
            f"{folder}/ledger",
            concurrency=CONCURRENCY,
            callers=2,
            # Half a CPU each: one caller on either node, and room for both on the one that stays.
            caller=CallerConfig(num_cpus=0.5, batch_rows=8, block_rows=16),
        )
        rows = job.run(num_calls)
    Path(folder, "rows.json").write_text(json.dumps(rows))


@contextmanager
def job_cluster(*, with_node: bool) -> Iterator[int | None]:
    """A head of two CPUs, and if wanted a second node, whose raylet's pid is given."""
    import ray
    from ray.cluster_utils import Cluster

    if not with_node:
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        try:
            yield None
        finally:
            ray.shutdown()
        return
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    node = cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        yield int(node.all_processes["raylet"][0].process.pid)
    finally:
        ray.shutdown()
        cluster.shutdown()


def start(
    endpoint: Running, folder: str, num_calls: int, *, with_node: bool
) -> subprocess.Popen[bytes]:
    """The driver as a child that leads a process group of its own; prints to `folder`/log."""
    with Path(folder, "log").open("ab") as log:  # raylets tell of every kill, at length
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "benchmarks.synthesis_kills"),
                *("--drive", endpoint.base_url, folder, str(num_calls), str(int(with_node))),
            ],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def read_rows(folder: str) -> list[dict[str, object]]:
    """What the last run in `folder` made.

    Raises:
        RuntimeError: it made nothing; with the end of what it printed.
    """
    path = Path(folder, "rows.json")
    if not path.exists():
        tail = Path(folder, "log").read_text(errors="replace")[-LOG_TAIL_CHARACTERS:]
        raise RuntimeError(f"a run that nobody killed left no rows; it printed\n{tail}")
    return content(json.loads(path.read_text()))


def end(job: subprocess.Popen[bytes], family: list[psutil.Process]) -> None:
    """Kill what is left of a run: exactly the processes seen as its descendants."""
    for process in [*family, *_descendants(job)]:
        with contextlib.suppress(psutil.Error):
            process.kill()
    if job.poll() is None:
        job.kill()
    job.wait(RUN_TIMEOUT_S)


def kill_one(job: subprocess.Popen[bytes], victim: Victim, folder: str) -> list[psutil.Process]:
    """Kill the victim; returns the run's processes as of before."""
    family = _descendants(job)
    if victim == "driver":
        job.send_signal(signal.SIGKILL)
    elif victim == "node":
        os.kill(int(Path(folder, "node.pid").read_text()), signal.SIGKILL)
    else:
        callers = [process for process in family if "MapWorker" in _title(process)]
        max(callers, key=_cpu_s).kill()  # the busier one: an idle one would be no loss
    return family


def round_of(
    endpoint: Running, victim: Victim, num_calls: int, expected: object
) -> dict[str, object]:
    """Run, kill, resume, compare."""
    endpoint.reset()
    with tempfile.TemporaryDirectory() as folder:
        job = start(endpoint, folder, num_calls, with_node=victim == "node")
        deadline = time.monotonic() + RUN_TIMEOUT_S
        moment = random.randrange(1, int(num_calls * 0.9))
        while endpoint.stats()["contents"] < moment and time.monotonic() < deadline:
            time.sleep(0.02)
        family = kill_one(job, victim, folder)
        if victim == "driver":
            end(job, family)
        with contextlib.suppress(subprocess.TimeoutExpired):
            job.wait(RUN_TIMEOUT_S)
        end(job, family)
        in_one_go = Path(folder, "rows.json").exists()
        again = start(endpoint, folder, num_calls, with_node=False)
        again.wait(RUN_TIMEOUT_S)
        end(again, [])
        rows = read_rows(folder)
    return {
        "equal": rows == expected,
        "sold_again": int(endpoint.stats()["sold_again"]),
        "finished_without_resume": in_one_go,
        "killed_at": moment,
    }


def content(rows: object) -> list[dict[str, object]]:
    """What a run's rows say; transport columns and the number of calls made are left out."""
    assert isinstance(rows, list)
    return [{name: row[name] for name in ("id", "status", "answer", "ledger_keys")} for row in rows]


def undisturbed(endpoint: Running, num_calls: int) -> list[dict[str, object]]:
    """Rows of a run that nobody kills."""
    with tempfile.TemporaryDirectory() as folder:
        job = start(endpoint, folder, num_calls, with_node=False)
        job.wait(RUN_TIMEOUT_S)
        return read_rows(folder)


def _descendants(job: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        return list(psutil.Process(job.pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def _cpu_s(process: psutil.Process) -> float:
    try:
        return float(sum(process.cpu_times()[:2]))
    except psutil.Error:
        return 0.0


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def describe_round(outcome: Mapping[str, object], num_calls: int) -> str:
    """One round in a few words."""
    went_on = "went on by itself" if outcome["finished_without_resume"] else "resumed"
    output = "output equal" if outcome["equal"] else "OUTPUT DIFFERS"
    return (
        f"killed at {outcome['killed_at']} of {num_calls} calls, {went_on}: {output}, "
        f"{outcome['sold_again']} sold again (at most {CONCURRENCY})"
    )


def find_faults(victim: str, rounds: Sequence[Mapping[str, object]]) -> list[str]:
    """Rounds, counted from 1, that lost something or paid for more than was in flight."""
    faults = []
    for number, outcome in enumerate(rounds, 1):
        if not outcome["equal"]:
            faults.append(f"{victim} {number}: the output differs")
        if int(str(outcome["sold_again"])) > CONCURRENCY:
            faults.append(f"{victim} {number}: {outcome['sold_again']} answers sold again")
    return faults


def main() -> int:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--times", type=int, default=10, help="kills per victim")
    parser.add_argument("--calls", type=int, default=400, help="per run")
    parser.add_argument(
        "--victims", nargs="+", default=list(get_args(Victim)), help="what is killed (default: all)"
    )
    parser.add_argument("--drive", nargs=4, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.drive:
        base_url, folder, num_calls, with_node = flags.drive
        driver(base_url, folder, int(num_calls), with_node=with_node == "1")
        return 0
    figures: dict[str, object] = {"in_flight": CONCURRENCY, "calls": flags.calls}
    faults: list[str] = []
    with running("--latency-s", str(LATENCY_S)) as endpoint:
        expected = undisturbed(endpoint, flags.calls)
        for victim in flags.victims:
            rounds: list[dict[str, object]] = []
            for number in range(1, flags.times + 1):
                rounds.append(round_of(endpoint, victim, flags.calls, expected))
                told = describe_round(rounds[-1], flags.calls)
                print(f"{victim} {number}/{flags.times}: {told}", flush=True)
            faults += find_faults(victim, rounds)
            figures[victim] = {
                "rounds": len(rounds),
                "equal": sum(bool(item["equal"]) for item in rounds),
                "max_sold_again": max(int(str(item["sold_again"])) for item in rounds),
            }
    print(json.dumps(figures | {"faults": faults}))
    return int(bool(faults))


if __name__ == "__main__":
    raise SystemExit(main())
