"""The doctor's report and exit code."""

from pathlib import Path

import pytest

from jobs import doctor

LENIENT = ["--set", "min_memory_bytes=1", "--set", "min_disk_bytes=1", "--set", "min_shm_bytes=1"]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "TEACHER_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def run(tmp_path: Path, *argv: str) -> int:
    return doctor.main(["--workspace", str(tmp_path), "--set", "min_cores=1", *LENIENT, *argv])


def test_a_healthy_machine_ends_with_0_and_names_each_thing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path) == 0
    report = capsys.readouterr().out
    for subject in ("python", "ray", "cores", "memory", "seccomp", "storage", "teacher"):
        assert f" {subject}" in report
    assert list(tmp_path.iterdir()) == []


def test_a_problem_ends_with_1_and_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "--set", "min_cores=100000") == 1
    report = capsys.readouterr().out
    assert "PROBLEM  cores" in report
    assert "-> give the container or machine more cores" in report


def test_an_endpoint_of_the_environment_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TEACHER_BASE_URL", "http://127.0.0.1:1/v1")
    assert run(tmp_path, "--set", "teacher.backoff_s=0", "--set", "teacher.timeout_s=2") == 1
    assert "PROBLEM  teacher http://127.0.0.1:1/v1" in capsys.readouterr().out


def test_a_wrong_config_is_told_apart_from_a_problem(tmp_path: Path) -> None:
    assert run(tmp_path, "--set", "min_corse=1") == 2
