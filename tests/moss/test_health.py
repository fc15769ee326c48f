"""Each shortage is a problem with a remedy; enough of everything is not."""

from pathlib import Path

import pytest

from moss import health
from moss.config.doctor import DoctorConfig
from moss.config.teacher import TeacherConfig
from moss.errors import ResourceError
from moss.health import Finding

LENIENT = DoctorConfig(min_cores=1, min_memory_bytes=1, min_disk_bytes=1, min_shm_bytes=1)


def only(findings: list[Finding], subject: str) -> Finding:
    (found,) = [finding for finding in findings if finding.subject.startswith(subject)]
    return found


def test_enough_resources_are_no_problem(tmp_path: Path) -> None:
    config = LENIENT.model_copy(update={"workspace": str(tmp_path / "not" / "there" / "yet")})
    assert {finding.level for finding in health.check_resources(config)} == {"ok"}


@pytest.mark.parametrize(
    ("key", "subject"),
    [
        ("min_cores", "cores"),
        ("min_memory_bytes", "memory"),
        ("min_disk_bytes", "disk"),
        ("min_shm_bytes", "/dev/shm"),
    ],
)
def test_a_shortage_says_what_is_needed_and_what_to_do(key: str, subject: str) -> None:
    config = LENIENT.model_copy(update={key: 1 << 60})
    found = only(health.check_resources(config), subject)
    assert found.level == "problem"
    assert "needed" in found.found
    assert found.remedy


def test_a_workspace_behind_a_url_has_no_local_disk_to_look_at() -> None:
    config = LENIENT.model_copy(update={"workspace": "memory://road"})
    assert not [f for f in health.check_resources(config) if f.subject.startswith("disk")]


def test_installed_versions_agree_with_the_constraints() -> None:
    root = Path(__file__).resolve().parents[2]
    levels = {f.subject: f.level for f in health.check_versions(health.read_constraints(root))}
    assert set(levels.values()) == {"ok"}
    assert "ray" in levels


def test_another_version_is_a_warning_and_an_absent_package_a_problem(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(health, "PACKAGES", ("ray", "no-such-package"))
    found = health.check_versions({"ray": "1.0.0"})
    assert only(found, "ray").level == "warning"
    assert "constraints.txt says 1.0.0" in only(found, "ray").found
    assert only(found, "no-such-package").level == "problem"


def test_a_missing_compiler_names_the_package_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = only(health.check_compilers(), "g++")
    assert found.level == "problem"
    assert "apt-get install g++" in found.remedy


def test_missing_seccomp_is_a_problem_and_missing_landlock_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse() -> None:
        raise ResourceError("install libseccomp2")

    monkeypatch.setattr(health, "require_seccomp", refuse)
    monkeypatch.setattr(health, "landlock_abi", lambda: 0)
    seccomp, landlock = health.check_sandbox()
    assert (seccomp.level, seccomp.remedy) == ("problem", "install libseccomp2")
    assert landlock.level == "warning"


def test_storage_that_works_is_left_as_it_was(tmp_path: Path) -> None:
    (found,) = health.check_storage(str(tmp_path))
    assert found.level == "ok"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("workspace", ["/proc/nowhere", "no-such-scheme://bucket"])
def test_storage_that_cannot_be_written_is_a_problem(workspace: str) -> None:
    (found,) = health.check_storage(workspace)
    assert found.level == "problem"


def test_excluded_folders_are_not_uploaded(tmp_path: Path) -> None:
    for name in ("jobs/a.py", "runs/big.bin", "actors/runs/kept.py", "jobs/__pycache__/a.pyc"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x", encoding="utf-8")
    uploaded = health.uploaded_files(tmp_path, ["/runs/", "__pycache__/", "*.egg-info/"])
    names = {file.relative_to(tmp_path).as_posix() for file in uploaded}
    assert names == {"jobs/a.py", "actors/runs/kept.py"}


@pytest.mark.parametrize(("size_mib", "level"), [(1, "ok"), (300, "warning"), (600, "problem")])
def test_a_large_working_dir_is_noticed_before_ray_refuses_it(
    tmp_path: Path, size_mib: int, level: str
) -> None:
    (tmp_path / "platform").mkdir()
    (tmp_path / "platform" / "runtime_env.yaml").write_text("excludes: []\n", encoding="utf-8")
    with (tmp_path / "weights.bin").open("wb") as sparse:
        sparse.truncate(size_mib * 1024**2)
    (found,) = health.check_working_dir(tmp_path)
    assert found.level == level


def test_this_checkout_uploads_little() -> None:
    (found,) = health.check_working_dir(Path(__file__).resolve().parents[2])
    assert found.level == "ok"


def test_without_an_endpoint_the_offline_teacher_is_named_a_stand_in() -> None:
    (found,) = health.check_teacher(TeacherConfig(), None)
    assert found.level == "ok"
    assert "stand-in" in found.found


def test_an_endpoint_that_does_not_answer_is_a_problem() -> None:
    config = TeacherConfig(backoff_s=0.0, timeout_s=2.0)
    (found,) = health.check_teacher(config, "http://127.0.0.1:1/v1")
    assert found.level == "problem"
    assert "TeacherUnavailableError" in found.found


def test_a_remedy_stands_below_its_finding() -> None:
    assert Finding("disk", "ok", "enough").as_text() == "ok       disk: enough"
    first, second = Finding("disk", "warning", "little", "free some").as_text().splitlines()
    assert first == "WARNING  disk: little"
    assert second.strip() == "-> free some"
