"""A Ray head of the test's own, and the `ray job` command line against it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from actors.local_cluster import LocalCluster

ROOT = Path(__file__).resolve().parents[1]

SUBMIT_TIMEOUT_S = 240


@contextmanager
def start_head(folder: Path, *, num_cpus: int = 2) -> Iterator[LocalCluster]:
    """A head with token authentication that ends with the block, leaving no process behind."""
    cluster = LocalCluster.start(
        str(folder), num_cpus=num_cpus, object_store_memory_bytes=200_000_000
    )
    try:
        yield cluster
    finally:
        LocalCluster.stop(str(folder))
        assert cluster.processes() == []


def clean_environment(**extra: str) -> dict[str, str]:
    """This process's environment without what would point Ray or Python elsewhere."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("RAY_") and name not in ("PYTHONPATH", "TEACHER_BASE_URL")
    }
    return kept | {"RAY_USAGE_STATS_ENABLED": "0"} | extra


def submit(
    cluster: LocalCluster,
    *entrypoint: str,
    environment: Mapping[str, str],
    runtime_env: tuple[str, ...] = ("--runtime-env", "platform/runtime_env.yaml"),
) -> subprocess.CompletedProcess[str]:
    """Run `ray job submit` from the root as a user would; output and errors are in `stdout`."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "ray.scripts.scripts", "job", "submit"),
            *("--address", cluster.dashboard_url, "--working-dir", "."),
            *runtime_env,
            *("--", *entrypoint),
        ],
        cwd=ROOT,
        env=dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SUBMIT_TIMEOUT_S,
    )
