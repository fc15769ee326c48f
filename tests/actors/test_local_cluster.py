"""A local cluster survives its starter, is found again, and ends exactly as recorded."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from actors.local_cluster import LOG, RECORD, TOKEN, LocalCluster
from moss.errors import ResourceError, StorageError
from tests.clusters import ROOT, clean_environment, start_head


def write_record(folder: Path, **changes: object) -> dict[str, object]:
    record: dict[str, object] = {
        "folder": str(folder),
        "pid": os.getpid(),
        "created_s": psutil.Process().create_time(),
        "marker": "nobody has this marker",
        "gcs_address": "127.0.0.1:1",
        "dashboard_url": "http://127.0.0.1:1",
        "token_path": str(folder / TOKEN),
        "temp_dir": str(folder / "temp"),
    }
    record |= changes
    (folder / RECORD).write_text(json.dumps(record), encoding="utf-8")
    return record


def test_a_folder_without_a_record_has_no_cluster(tmp_path: Path) -> None:
    assert LocalCluster.attach(str(tmp_path)) is None
    assert LocalCluster.stop(str(tmp_path)) is False


def test_a_recycled_pid_is_neither_attached_to_nor_ended(tmp_path: Path) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
    try:
        write_record(tmp_path, pid=bystander.pid, created_s=1.0)
        assert LocalCluster.attach(str(tmp_path)) is None
        assert LocalCluster.stop(str(tmp_path)) is False
        assert bystander.poll() is None
        assert not (tmp_path / RECORD).exists()
    finally:
        bystander.kill()
        bystander.wait()


def test_a_damaged_record_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text('{"pid": 1', encoding="utf-8")
    with pytest.raises(StorageError, match="then delete the file"):
        LocalCluster.attach(str(tmp_path))


def test_a_head_that_does_not_come_up_leaves_its_log_and_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ResourceError, match="the head process ended"):
        LocalCluster.start(str(tmp_path), timeout_s=20)
    assert (tmp_path / LOG).is_file()
    assert not (tmp_path / RECORD).exists()


pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with start_head(tmp_path_factory.mktemp("head")) as head:
        yield head


@pytest.mark.ray
@pytest.mark.slow
def test_a_running_cluster_is_found_again_and_its_token_is_private(cluster: LocalCluster) -> None:
    assert LocalCluster.attach(cluster.folder) == cluster
    assert Path(cluster.token_path).stat().st_mode & 0o077 == 0
    assert cluster.has_node()


@pytest.mark.ray
@pytest.mark.slow
def test_a_driver_joins_by_address_with_the_token(cluster: LocalCluster) -> None:
    code = (
        "from actors.cluster import connect\n"
        "with connect(num_cpus_needed=2, what='test'):\n"
        "    import ray\n"
        "    print('CPUs', ray.cluster_resources()['CPU'])\n"
        "with connect(num_cpus_needed=64, what='train_ppo with 64 actors'): pass\n"
    )
    environment = clean_environment(
        PYTHONPATH=f"{ROOT}:{ROOT / 'platform'}",
        RAY_ADDRESS=cluster.gcs_address,
        **cluster.client_env,
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "CPUs 2.0" in done.stdout, done.stderr
    assert "train_ppo with 64 actors needs 64 CPU, the cluster has 2" in done.stderr


@pytest.mark.ray
@pytest.mark.slow
def test_stop_ends_what_is_left_of_a_cluster_whose_head_was_killed(tmp_path: Path) -> None:
    with start_head(tmp_path) as doomed:
        psutil.Process(doomed.pid).kill()
        deadline = time.monotonic() + 30
        while doomed.is_alive() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert LocalCluster.attach(str(tmp_path)) is None
        LocalCluster.stop(str(tmp_path))
        assert doomed.processes() == []
        assert not Path(doomed.temp_dir).exists()
        assert not (tmp_path / TOKEN).exists()
