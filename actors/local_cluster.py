"""A Ray cluster of one node on this machine that outlives the process which started it.

`ray stop` ends every Ray process of a machine and `ray start` without ports collides with a
neighbor. So a cluster of ours has its own ports, temp folder, token and session, is written down
in `<folder>/cluster.json`, and `stop` ends what is written there and nothing else: the head by pid
and start time (a pid alone may have been given to another process), the rest by a marker in their
environment.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from actors.cluster import short_temp_dir
from actors.ports import free_ports
from actors.processes import end_head_and_members, marked_processes, same_process
from moss.errors import ResourceError, StorageError

RECORD = "cluster.json"
LOG = "cluster.log"
TOKEN = "auth_token"
MARKER_ENV = "MOSS_CLUSTER"
"""Set in the head's environment and inherited by every process of the cluster and its jobs."""

LOOPBACK = "127.0.0.1"

_POLL_S = 0.25
_HTTP_TIMEOUT_S = 5.0
_START_ATTEMPTS = 3
_LOG_TAIL_CHARS = 2000


@dataclass(frozen=True, slots=True)
class LocalCluster:
    """A running head node and how to reach it."""

    folder: str
    """Where `cluster.json`, the token and the log of the head are."""
    pid: int
    created_s: float
    """Start time of the head process, seconds since the epoch."""
    marker: str
    """Value of `MARKER_ENV` in every process of this cluster."""
    gcs_address: str
    """host:port for `ray.init`."""
    dashboard_url: str
    """Address of the Jobs API."""
    token_path: str
    temp_dir: str

    @classmethod
    def start(
        cls,
        folder: str,
        *,
        num_cpus: int | None = None,
        object_store_memory_bytes: int = 1 << 30,
        timeout_s: float = 180.0,
    ) -> LocalCluster:
        """Start a head, wait until its Jobs API answers, and record it in `folder`.

        What an earlier start left in `folder` is stopped first; use `attach` to keep it.

        Args:
            num_cpus: CPUs the node offers; the machine's own number when None.
            timeout_s: longest wait for one attempt; there are three, since a busy machine misses
                Ray's own fixed limit of 30 s.

        Raises:
            ResourceError: the head ended or did not answer in time, with the end of its log.
        """
        place = Path(folder).resolve()
        place.mkdir(parents=True, exist_ok=True)
        cls.stop(str(place))
        failure = ""
        for _ in range(_START_ATTEMPTS):
            cluster = _launch(place, num_cpus, object_store_memory_bytes)
            failure = cluster._wait_until_ready(timeout_s)
            if not failure:
                return cluster
            cls.stop(str(place))
        raise ResourceError(
            f"Ray did not start on this machine in {_START_ATTEMPTS} attempts: {failure}. "
            f"Check free memory and load (python -m jobs.doctor); the log is {place / LOG}:\n"
            + _tail(place / LOG)
        )

    @classmethod
    def attach(cls, folder: str) -> LocalCluster | None:
        """The cluster recorded in `folder` if its head lives and its Jobs API answers."""
        cluster = _recorded(folder)
        return cluster if cluster and cluster.is_alive() and cluster.answers() else None

    @staticmethod
    def stop(folder: str, *, timeout_s: float = 30.0) -> bool:
        """End the cluster recorded in `folder`, if any, and remove its record and temp folder.

        Args:
            timeout_s: how long processes may take to end by themselves before they are killed.

        Returns: whether any process had to be ended.
        """
        cluster = _recorded(folder)
        if cluster is None:
            return False
        head = same_process(cluster.pid, cluster.created_s)
        ended = end_head_and_members(head, cluster.processes, timeout_s=timeout_s)
        shutil.rmtree(cluster.temp_dir, ignore_errors=True)
        for name in (RECORD, TOKEN):
            (Path(folder) / name).unlink(missing_ok=True)
        return ended

    @property
    def client_env(self) -> dict[str, str]:
        """Environment for a process that talks to this cluster; set it before importing Ray."""
        return {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": self.token_path,
            "RAY_USAGE_STATS_ENABLED": "0",
        }

    def is_alive(self) -> bool:
        """Whether the head process that was started still runs."""
        return same_process(self.pid, self.created_s) is not None

    def answers(self) -> bool:
        """Whether the Jobs API accepts our token."""
        return self._get("/api/jobs/") is not None

    def has_node(self) -> bool:
        """Whether the node has joined, so that jobs find resources."""
        reply = self._get("/nodes?view=summary")
        return reply is not None and b'"ALIVE"' in reply

    def processes(self) -> list[psutil.Process]:
        """Every live process of this cluster and of the jobs it runs, found by the marker."""
        return marked_processes(MARKER_ENV, self.marker)

    def _get(self, path: str) -> bytes | None:
        """Body of a GET from the dashboard with our token; None unless it answers 200."""
        try:
            token = Path(self.token_path).read_text(encoding="utf-8")
            request = urllib.request.Request(
                f"{self.dashboard_url}{path}", headers={"Authorization": f"Bearer {token}"}
            )
            with _opener().open(request, timeout=_HTTP_TIMEOUT_S) as reply:
                return bytes(reply.read())
        except OSError:  # the root of refused, timed out and HTTP errors alike
            return None

    def _wait_until_ready(self, timeout_s: float) -> str:
        """Empty when the Jobs API answers; otherwise why it does not."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if not self.is_alive():
                return "the head process ended"
            if self.answers() and self.has_node():
                return ""
            time.sleep(_POLL_S)
        return f"the Jobs API at {self.dashboard_url} did not answer within {timeout_s:g} s"


def _launch(place: Path, num_cpus: int | None, object_store_memory_bytes: int) -> LocalCluster:
    ports = free_ports(_PORT_FLAGS)
    temp_dir = short_temp_dir()
    marker = secrets.token_hex(16)
    token = place / TOKEN
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32), encoding="utf-8")
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
        *(f"--{flag}={port}" for flag, port in ports.items()),
        *(f"--node-ip-address={LOOPBACK}", f"--dashboard-host={LOOPBACK}"),
        *("--min-worker-port=0", "--max-worker-port=0"),
        *(f"--temp-dir={temp_dir}", f"--object-store-memory={object_store_memory_bytes}"),
        "--disable-usage-stats",
    ]
    if num_cpus is not None:
        command.append(f"--num-cpus={num_cpus}")
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("RAY_ADDRESS", "PYTHONPATH", "RAY_AUTH_TOKEN")
    }
    # `python` in the entrypoint of a job must be the interpreter that has this project's packages.
    bin_folder = str(Path(sys.executable).parent)
    environment |= {
        "PATH": os.pathsep.join([bin_folder, os.environ.get("PATH", os.defpath)]),
        # Threads that spin at a barrier starve everything else on a machine of few cores: a
        # training step was measured five times slower beside other work.
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        # On SIGTERM a node first waits for traffic to move to other nodes; there are none.
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        MARKER_ENV: marker,
    }
    with (place / LOG).open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=temp_dir,
            start_new_session=True,
        )
    cluster = LocalCluster(
        folder=str(place),
        pid=process.pid,
        created_s=psutil.Process(process.pid).create_time(),
        marker=marker,
        gcs_address=f"{LOOPBACK}:{ports['port']}",
        dashboard_url=f"http://{LOOPBACK}:{ports['dashboard-port']}",
        token_path=str(token),
        temp_dir=temp_dir,
    )
    _record(cluster)
    return cluster


_PORT_FLAGS = (
    "port",
    "dashboard-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "ray-client-server-port",
    "node-manager-port",
    "object-manager-port",
    "runtime-env-agent-port",
    "metrics-export-port",
)
"""Flags of `ray start` that name a port of their own."""


def _record(cluster: LocalCluster) -> None:
    target = Path(cluster.folder) / RECORD
    temporary = target.with_suffix(".tmp")
    temporary.write_text(json.dumps(asdict(cluster), indent=2), encoding="utf-8")
    temporary.replace(target)


def _recorded(folder: str) -> LocalCluster | None:
    record = Path(folder) / RECORD
    if not record.is_file():
        return None
    try:
        return LocalCluster(**json.loads(record.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise StorageError(
            f"{record} does not describe a cluster ({error}); look for its processes yourself "
            f"(environment variable {MARKER_ENV}), then delete the file"
        ) from error


def _opener() -> urllib.request.OpenerDirector:
    """Loopback is never behind a proxy, whatever `http_proxy` says."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _tail(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-_LOG_TAIL_CHARS:]
