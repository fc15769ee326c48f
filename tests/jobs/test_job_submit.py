"""A stage runs by `ray job submit` on a cluster with token authentication; only with a token."""

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from actors.local_cluster import LocalCluster
from moss.lineage import load_manifest
from moss.manifest import is_finished
from tests import stub_teacher
from tests.clusters import ROOT, clean_environment, start_head, submit
from tests.stub_endpoint import StubEndpoint, running

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


def test_jobs_at_once_share_an_endpoints_limit_and_a_wrong_key_fails_alone(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    stub = StubEndpoint(stub_teacher.respond, models=stub_teacher.MODELS, key="right", delay_s=0.05)

    def extend(run_id: str, key: str) -> subprocess.CompletedProcess[str]:
        runtime_env = yaml.safe_load((ROOT / "platform/runtime_env.yaml").read_text("utf-8"))
        runtime_env["env_vars"] |= {"TEACHER_API_KEY": key, "TEACHER_BASE_URL": stub.base_url}
        return submit(
            cluster,
            *("python", "-m", "jobs.synthesize_prompts", "--config", "tiny_warmup"),
            *("--workspace", str(tmp_path), "--run-id", run_id),
            *("--set", "teacher.concurrency=4", "--set", "quotas={helpfulness: {en: 80, zh: 80}}"),
            environment=clean_environment(**cluster.client_env),
            runtime_env=("--runtime-env-json", json.dumps(runtime_env)),
        )

    with running(stub), ThreadPoolExecutor() as pool:
        jobs = [pool.submit(extend, *of) for of in (("a", "right"), ("b", "right"), ("c", "wrong"))]
        first, second, refused = (job.result() for job in jobs)
    assert first.returncode == 0, first.stdout
    assert second.returncode == 0, second.stdout
    assert {load_manifest(str(tmp_path / run)).stage for run in "ab"} == {"synthesize_prompts"}
    assert stub.max_in_flight <= 4
    assert refused.returncode != 0
    assert "TeacherAuthError" in refused.stdout
    assert not is_finished(str(tmp_path / "c"))


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
