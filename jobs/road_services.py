"""What a road starts on this machine beside its stages: a Ray cluster and the offline teacher.

Both are recorded in the road's folder and outlive a killed road: the next one finds them again, and
`--stop` ends exactly them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from actors.local_cluster import LocalCluster
from actors.ports import free_ports
from jobs.teacher_session import BASE_URL_ENV, configured_base_url
from moss.config.road import RoadConfig
from moss.config.teacher import TeacherConfig
from moss.errors import ConfigError, TeacherError, TeacherUnavailableError
from moss.road_records import ProcessRecord, ProcessRecords, RoadLock

ROOT = Path(__file__).resolve().parent.parent
TEACHER = "teacher"
DRIVER = "driver"
DRIVER_TIMEOUT_S = 60.0
"""A road that is told to end stops its running stage first."""
_POLL_S = 0.2
_LOG_TAIL_CHARS = 1500


class RoadServices:
    """The teacher and the cluster of one road.

    Args:
        config: the road.
        folder: local folder of its records.
        say: where one line about each start and end goes.
    """

    def __init__(self, config: RoadConfig, folder: Path, say: Callable[[str], None]) -> None:
        self.records = ProcessRecords(folder)
        self._config = config
        self._folder = folder
        self._say = say

    def teacher(self) -> TeacherConfig:
        """The endpoint of the stages, checked: the configured one, else the offline teacher.

        Raises:
            ConfigError: a cluster elsewhere would need the offline teacher, which only this machine
                reaches.
            TeacherError: the endpoint does not answer or refuses the key.
        """
        from moss.endpoint import check_endpoint

        base_url = configured_base_url(self._config.teacher)
        if base_url is not None:
            endpoint = self._config.teacher.with_base_url(base_url)
            check_endpoint(endpoint)
            return endpoint
        if self._config.address is not None:
            raise ConfigError(
                f"the cluster at {self._config.address} cannot reach an offline teacher on this "
                f"machine; set teacher.base_url or {BASE_URL_ENV} to an endpoint its nodes reach"
            )
        return self._config.teacher.with_base_url(self._offline_teacher())

    def end_teacher(self) -> bool:
        """End the offline teacher if this road started one; False if there was none."""
        record = self.records.load().get(TEACHER)
        ended = record.end() if record else False
        if record:
            self.records.remove(TEACHER)
        if ended:
            self._say("the offline teacher is no longer needed and has ended")
        return ended

    def cluster(self) -> LocalCluster:
        """The road's cluster on this machine, started unless it runs already.

        Raises:
            ResourceError: it did not start.
        """
        cluster = LocalCluster.attach(str(self._folder))
        if cluster is not None and self._knows_our_key(cluster):
            self._say(f"using the Ray cluster that runs already (pid {cluster.pid})")
        else:
            self._say("starting a Ray cluster on this machine")
            cluster = LocalCluster.start(
                str(self._folder),
                num_cpus=self._config.cluster.num_cpus,
                object_store_memory_bytes=self._config.cluster.object_store_memory_bytes,
                timeout_s=self._config.cluster.start_timeout_s,
            )
        os.environ.update(cluster.client_env)
        return cluster

    def stop(self) -> list[str]:
        """End the road's driver, cluster and teacher; the names of those that ran."""
        ended = []
        record = self.records.load().get(DRIVER)
        if record is not None and record.end(timeout_s=DRIVER_TIMEOUT_S, with_children=False):
            ended.append("the road itself")
        with RoadLock(self._folder):
            self.records.remove(DRIVER)
            if LocalCluster.stop(str(self._folder)):
                ended.append("the Ray cluster with the chat service")
            if self.end_teacher():
                ended.append("the offline teacher")
        return ended

    def _knows_our_key(self, cluster: LocalCluster) -> bool:
        """Stages inherit the API key from the cluster's environment, never from job metadata."""
        name = self._config.teacher.api_key_env
        processes = cluster.processes()
        head = next((process for process in processes if process.pid == cluster.pid), None)
        return head is not None and head.environ().get(name) == os.environ.get(name)

    def _offline_teacher(self) -> str:
        record = self.records.load().get(TEACHER)
        if record is not None and record.process() is not None and _answers(record.url):
            return record.url
        # A stage that outlived its road still calls the old port, so a new teacher takes it again.
        port = int(record.url.rpartition(":")[2].split("/")[0]) if record else 0
        if record is None or not _is_free(port):
            port = free_ports([TEACHER])[TEACHER]
        return self._start_teacher(port)

    def _start_teacher(self, port: int) -> str:
        url = f"http://127.0.0.1:{port}/v1"
        log_path = self._folder / "teacher.log"
        self._folder.mkdir(parents=True, exist_ok=True)
        with log_path.open("wb") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", "serve.teacher_app", "--port", str(port)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": python_path()},
                start_new_session=True,
            )
        self.records.add(TEACHER, ProcessRecord.of(child.pid, url))
        deadline = time.monotonic() + self._config.teacher_start_timeout_s
        while time.monotonic() < deadline and child.poll() is None:
            if _answers(url):
                self._say(f"the offline teacher answers at {url}: a stand-in, not a real model")
                return url
            time.sleep(_POLL_S)
        self.end_teacher()
        tail = log_path.read_text(encoding="utf-8", errors="replace")[-_LOG_TAIL_CHARS:]
        raise TeacherUnavailableError(
            f"the offline teacher did not answer at {url} within "
            f"{self._config.teacher_start_timeout_s:.0f} s; its log ({log_path}) ends:\n{tail}"
        )


def python_path() -> str:
    """PYTHONPATH with which this checkout's jobs, actors, serve and moss import anywhere."""
    inherited = os.environ.get("PYTHONPATH", "")
    parts = [str(ROOT), str(ROOT / "platform"), *inherited.split(os.pathsep)]
    return os.pathsep.join(dict.fromkeys(part for part in parts if part))


def _answers(url: str) -> bool:
    from moss.endpoint import check_endpoint

    try:
        check_endpoint(TeacherConfig(base_url=url, timeout_s=2.0, backoff_s=0.0))
    except TeacherError:
        return False
    return True


def _is_free(port: int) -> bool:
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
