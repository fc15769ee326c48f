"""The doctor tells an unreachable cluster from one that wants a token and from an open one."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from actors import cluster_health
from actors.cluster_health import check_cluster, check_jobs_api, read_token
from tests.clusters import ROOT, clean_environment
from tests.small_servers import Answer, serve_gets

TOKEN_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE", "RAY_ADDRESS")


@pytest.fixture(autouse=True)
def no_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*TOKEN_VARIABLES, cluster_health.JOBS_ADDRESS_ENV):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def wants(token: str | None) -> Answer:
    def answer(path: str, headers: Mapping[str, str]) -> tuple[int, str]:
        allowed = token is None or headers.get("Authorization") == f"Bearer {token}"
        return (200, "[]") if allowed and path == "/api/jobs/" else (401, "{}")

    return answer


def test_no_address_is_nothing_to_look_at() -> None:
    assert check_jobs_api(None, timeout_s=1) == []


def test_a_cluster_that_does_not_answer_is_a_problem() -> None:
    (found,) = check_jobs_api("http://127.0.0.1:1", timeout_s=2)
    assert found.level == "problem"


def test_a_missing_and_a_wrong_token_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_gets(wants("right")) as address:
        (missing,) = check_jobs_api(address, timeout_s=5)
        monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong")
        (wrong,) = check_jobs_api(address, timeout_s=5)
    assert "there is none here" in missing.found
    assert "refuses our token" in wrong.found
    assert "RAY_AUTH_TOKEN_PATH" in wrong.remedy


def test_the_right_token_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "right")
    with serve_gets(wants("right")) as address:
        levels = [finding.level for finding in check_jobs_api(address, timeout_s=5)]
    assert levels == ["ok", "ok"]


def test_a_cluster_that_asks_nobody_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_gets(wants(None)) as address:
        monkeypatch.setenv(cluster_health.JOBS_ADDRESS_ENV, address)
        answers, token = check_jobs_api(None, timeout_s=5)
    assert answers.level == "ok"
    assert token.level == "warning"
    assert "RAY_AUTH_MODE=token" in token.remedy


def test_the_token_is_looked_for_in_rays_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_token() is None
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("home\n", encoding="utf-8")
    assert read_token() == "home"
    named = tmp_path / "named"
    named.write_text("named", encoding="utf-8")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(named))
    assert read_token() == "named"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "variable")
    assert read_token() == "variable"


def test_without_an_address_each_job_starts_its_own() -> None:
    assert [finding.level for finding in check_cluster()] == ["ok"]


def test_a_dead_cluster_address_is_a_problem() -> None:
    # In a process of its own: this one may be connected to the tests' cluster.
    program = (
        "from actors.cluster_health import check_cluster\n"
        "(found,) = check_cluster()\n"
        "print(found.level, found.remedy)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=clean_environment(PYTHONPATH=f".{os.pathsep}platform", RAY_ADDRESS="127.0.0.1:1"),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert ended.stdout.startswith("problem")
    assert "RAY_ADDRESS" in ended.stdout
