"""A stage runs by `ray job submit` on a cluster with token authentication; only with a token."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.local_cluster import LocalCluster
from tests.clusters import ROOT, clean_environment, start_head, submit

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

LENIENT = [
    *("--set", "min_memory_bytes=1"),
    *("--set", "min_disk_bytes=1"),
    *("--set", "min_shm_bytes=1"),
    *("--set", "min_cores=1"),
]
"""The machine that runs the tests may be small; what is tested is the way there."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with start_head(tmp_path_factory.mktemp("head")) as head:
        yield head


def doctor(workspace: Path) -> list[str]:
    return ["python", "-m", "jobs.doctor", "--workspace", str(workspace), *LENIENT]


def test_a_job_runs_with_moss_beside_the_working_dir(cluster: LocalCluster, tmp_path: Path) -> None:
    environment = clean_environment(**cluster.client_env)
    done = submit(cluster, *doctor(tmp_path), environment=environment)
    assert done.returncode == 0, done.stdout
    assert "succeeded" in done.stdout
    assert "Ray cluster: Ray 2.60.0, 1 nodes, 2 CPUs" in done.stdout
    assert "token authentication: on" in done.stdout


def test_a_job_that_finds_a_problem_fails(cluster: LocalCluster, tmp_path: Path) -> None:
    environment = clean_environment(**cluster.client_env)
    command = [*doctor(tmp_path), "--set", "min_cores=100000"]
    done = submit(cluster, *command, environment=environment)
    assert done.returncode != 0
    assert "PROBLEM  cores" in done.stdout


def test_moss_of_another_tree_is_refused_before_any_actor_starts(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    environment = clean_environment(**cluster.client_env)
    other_tree = f'{{"env_vars": {{"PYTHONPATH": "{ROOT / "platform"}"}}}}'
    done = submit(
        cluster,
        *doctor(tmp_path),
        environment=environment,
        runtime_env=("--runtime-env-json", other_tree),
    )
    assert done.returncode != 0
    assert "two different trees" in done.stdout
    assert "--runtime-env platform/runtime_env.yaml" in done.stdout


def test_without_a_token_the_cluster_refuses(cluster: LocalCluster, tmp_path: Path) -> None:
    environment = clean_environment(RAY_AUTH_MODE="disabled")
    done = submit(cluster, *doctor(tmp_path), environment=environment)
    assert done.returncode != 0
    assert "token authentication is enabled" in done.stdout
    assert "submitted successfully" not in done.stdout


def test_a_wrong_token_is_refused(cluster: LocalCluster, tmp_path: Path) -> None:
    wrong = tmp_path / "token"
    wrong.write_text("0" * 64, encoding="utf-8")
    environment = clean_environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(wrong))
    done = submit(cluster, *doctor(tmp_path), environment=environment)
    assert done.returncode != 0
    assert "submitted successfully" not in done.stdout
