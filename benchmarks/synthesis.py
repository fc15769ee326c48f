"""How close a synthesis job comes to an endpoint's limit, and what a call costs in CPU time.

    python -m benchmarks.synthesis            our Ray Data job beside plain aiohttp and bare openai
    python -m benchmarks.synthesis --faults   our job against an endpoint that fails in five ways

The last line is one JSON object. Nothing else should run on the machine meanwhile: the column
`others` says what did.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path

from benchmarks.fake_endpoint import MOST, Running, Stats, running
from benchmarks.measuring import Measured, measure, table
from benchmarks.plain_clients import run_aiohttp, run_bare, run_persistent
from benchmarks.synthesis_job import Job

LATENCY_S = 0.2
FAULTS = {
    "status_429": 0.05,
    "status_500": 0.02,
    "cut": 0.01,
    "hang": 0.01,
    "malformed": 0.02,
}
FAULTS_TIMEOUT_S = 0.6
"""`teacher.timeout_s` of the run with faults: a hang holds its slot so long."""
OBJECT_STORE_BYTES = 200_000_000


def compare(endpoint: Running, flags: argparse.Namespace) -> dict[str, object]:
    """All three clients at each concurrency."""
    rows: list[Measured] = []
    for concurrency in flags.concurrency:
        for name, run in (("plain aiohttp", run_aiohttp), ("bare openai", run_bare)):
            rows.append(
                measure(
                    name,
                    endpoint,
                    partial(run, endpoint, flags.calls, concurrency),
                    concurrency=concurrency,
                    num_calls=flags.calls,
                    latency_s=LATENCY_S,
                )
            )
        rows.append(measure_job(endpoint, flags, concurrency))
        print(table(rows[-3:]), flush=True)
    figures: dict[str, object] = {"calls": flags.calls, "rows": [asdict(row) for row in rows]}
    for aio, bare, ours in zip(rows[0::3], rows[1::3], rows[2::3], strict=True):
        suffix = str(ours.concurrency)
        figures[f"share_of_limit_{suffix}"] = round(ours.share_of_limit, 4)
        figures[f"cpu_s_per_1000_{suffix}"] = round(ours.cpu_s_per_1000, 3)
        figures[f"share_of_bare_{suffix}"] = round(ours.rate_per_s / bare.rate_per_s, 4)
        figures[f"cpu_of_bare_{suffix}"] = round(ours.cpu_s / bare.cpu_s, 2)
        figures[f"bare_share_of_limit_{suffix}"] = round(bare.share_of_limit, 4)
        figures[f"aiohttp_share_of_limit_{suffix}"] = round(aio.share_of_limit, 4)
    figures["startup_s"] = round(rows[2].startup_s, 1)
    return figures


def measure_job(endpoint: Running, flags: argparse.Namespace, concurrency: int) -> Measured:
    """Our job on a cluster of its own, whose start is part of the start-up."""
    with tempfile.TemporaryDirectory() as folder:
        job = Job(endpoint.base_url, folder, concurrency=concurrency, callers=flags.callers)

        def work() -> None:
            rows = job.run(flags.calls)
            assert len(rows) == flags.calls
            assert all(row["status"] == "ok" for row in rows)

        return measure(
            "ours",
            endpoint,
            work,
            concurrency=concurrency,
            num_calls=flags.calls,
            latency_s=LATENCY_S,
            surroundings=local_cluster(),
        )


def faults(endpoint: Running, flags: argparse.Namespace) -> dict[str, object]:
    """Whether all that goes in is accounted for, none lost, none paid twice; and how fast.

    `share_of_limit` counts until `MOST` of the rows have answers. The last few wait out a
    Retry-After or two whatever their number and whoever asks: `share_of_plain_with_stragglers`
    counts to the very last, against a plain client that meets the same faults.
    """
    concurrency = flags.concurrency[0]
    endpoint.reset(faults=FAULTS)
    run_persistent(endpoint, flags.calls, concurrency, timeout_s=FAULTS_TIMEOUT_S)
    plain = endpoint.stats()
    endpoint.reset(faults=FAULTS)
    with tempfile.TemporaryDirectory() as folder, local_cluster():
        job = Job(
            endpoint.base_url,
            folder,
            concurrency=concurrency,
            callers=flags.callers,
            timeout_s=FAULTS_TIMEOUT_S,
        )
        rows = job.run(flags.calls)
    ours = endpoint.stats()
    ids = {str(row["id"]) for row in rows}
    num_ok = sum(row["status"] == "ok" for row in rows)
    limit = concurrency / LATENCY_S
    return {
        "calls": flags.calls,
        "accounted_for": len(ids),
        "ok": num_ok,
        "failed": len(rows) - num_ok,
        "lost": flags.calls - len(ids),
        "sold_again": ours["sold_again"],
        "outcomes": ours["outcomes"],
        "rate_per_s": round(rate(ours), 1),
        "share_of_limit": round(rate_of_most(ours) / limit, 4),
        "share_of_limit_with_stragglers": round(rate(ours) / limit, 4),
        "plain_share_of_limit": round(rate_of_most(plain) / limit, 4),
        "plain_share_of_limit_with_stragglers": round(rate(plain) / limit, 4),
        "share_of_plain": round(rate_of_most(ours) / rate_of_most(plain), 4),
        "share_of_plain_with_stragglers": round(rate(ours) / rate(plain), 4),
        "timeout_s": FAULTS_TIMEOUT_S,
    }


def rate(stats: Stats) -> float:
    """Contents sold per second, to the last straggler."""
    return stats["contents"] / stats["span_s"]


def rate_of_most(stats: Stats) -> float:
    """Contents sold per second while there was enough to ask for."""
    return MOST * stats["contents"] / stats["most_span_s"]


def ray_environment() -> None:
    """Let workers find the packages of this tree."""
    root = Path(__file__).resolve().parents[1]
    os.environ["PYTHONPATH"] = f"{root}{os.pathsep}{root / 'platform'}"


@contextmanager
def local_cluster() -> Iterator[None]:
    """A private Ray cluster of two CPUs while the block runs."""
    import ray

    ray_environment()
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        log_to_driver=False,
    )
    try:
        yield
    finally:
        ray.shutdown()


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--calls", type=int, default=4000, help="per measurement")
    parser.add_argument(
        "--concurrency",
        type=int,
        nargs="+",
        default=[64, 256],
        help="requests in flight; one table row each",
    )
    parser.add_argument("--callers", type=int, default=1, help="caller actors of our job")
    parser.add_argument(
        "--faults",
        action="store_true",
        help="an endpoint that refuses, fails, cuts off, stalls and garbles",
    )
    flags = parser.parse_args()
    with suppress(KeyboardInterrupt), running("--latency-s", str(LATENCY_S)) as endpoint:
        figures = faults(endpoint, flags) if flags.faults else compare(endpoint, flags)
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
