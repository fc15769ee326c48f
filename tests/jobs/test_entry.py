"""Flags, exit codes and messages that all jobs share, and how light their start is."""

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs import entry
from jobs.entry import run_job
from moss import storage
from moss.config import StageConfig
from moss.config.training import TrainSFTConfig
from moss.errors import (
    BudgetError,
    DataError,
    LayoutError,
    ManifestError,
    ResourceError,
    TeacherQuotaError,
)
from moss.lineage import Run, load_manifest

ROOT = Path(__file__).resolve().parents[2]
JOBS = sorted(
    file.stem
    for file in (ROOT / "jobs").glob("*.py")
    if "CONFIG_CLASS" in file.read_text(encoding="utf-8") and file.stem != "entry"
)


class BakeConfig(StageConfig):
    """Bake a loaf."""

    num_loaves: int = 1


@pytest.fixture(autouse=True)
def shipped_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "configs" / "bake"
    folder.mkdir(parents=True)
    for size, loaves in (("tiny", 1), ("paper", 1000)):
        (folder / f"{size}.yaml").write_text(
            f"workspace: {tmp_path}/runs\nrun_id: bread\nnum_loaves: {loaves}\n", encoding="utf-8"
        )
    monkeypatch.setattr(entry, "CONFIGS", tmp_path / "configs")


def bake(*argv: str, body: Callable[[BakeConfig], None] | None = None) -> list[BakeConfig]:
    """Configs that the body saw; the run must have ended with 0."""
    seen: list[BakeConfig] = []
    assert run_job("bake", BakeConfig, body or seen.append, argv) == 0
    return seen


def fail_with(error: BaseException) -> Callable[[StageConfig], None]:
    def body(config: StageConfig) -> None:
        raise error

    return body


def test_the_tiny_size_is_the_default() -> None:
    assert bake()[0].num_loaves == 1


def test_a_size_is_chosen_by_name_and_a_file_by_path(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("run_id: own\nnum_loaves: 7\n", encoding="utf-8")
    assert bake("--config", "paper")[0].num_loaves == 1000
    assert bake("--config", str(file))[0].num_loaves == 7


def test_flags_change_values_and_the_last_one_wins() -> None:
    config = bake("--set", "num_loaves=2", "--set", "num_loaves=3", "--run-id", "rye")[0]
    assert (config.num_loaves, config.run_id) == (3, "rye")


def test_a_run_id_of_digits_stays_text() -> None:
    assert bake("--run-id", "007")[0].run_id == "007"


def test_an_unknown_size_names_those_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_job("bake", BakeConfig, fail_with(AssertionError()), ["--config", "huge"]) == 2
    assert "sizes shipped: paper, tiny" in capsys.readouterr().err


def test_a_mistyped_key_names_the_near_one(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--set", "num_loavse=2"]
    assert run_job("bake", BakeConfig, fail_with(AssertionError()), argv) == entry.EXIT_CONFIG
    assert "did you mean 'num_loaves'?" in capsys.readouterr().err


def test_a_mistyped_flag_names_the_near_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_job("bake", BakeConfig, fail_with(AssertionError()), ["--cofnig", "tiny"])
    assert (
        "unrecognized arguments: --cofnig tiny; did you mean --config?" in capsys.readouterr().err
    )


def test_a_fault_of_an_override_names_the_override(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--set", "num_loaves=many"]
    assert run_job("bake", BakeConfig, fail_with(AssertionError()), argv) == entry.EXIT_CONFIG
    assert "tiny.yaml --set num_loaves=many:\n" in capsys.readouterr().err


def test_two_trees_are_refused_before_anything_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def two_trees() -> None:
        raise LayoutError("moss comes from /a but jobs and actors from /b")

    monkeypatch.setattr(entry, "check_layout", two_trees)
    argv = ["--config", "no such size"]
    assert run_job("bake", BakeConfig, fail_with(AssertionError()), argv) == entry.EXIT_FAILED
    assert "LayoutError: moss comes from /a" in capsys.readouterr().err


def test_an_input_that_is_missing_names_the_job_that_makes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def read_bread(config: BakeConfig) -> None:
        load_manifest(f"{tmp_path}/runs/bread")

    assert run_job("bake", BakeConfig, read_bread, []) == entry.EXIT_FAILED
    assert "; python -m jobs.bake --config tiny makes it" in capsys.readouterr().err
    argv = ["--workspace", "my runs"]
    assert run_job("bake", BakeConfig, read_bread, argv) == entry.EXIT_FAILED
    hint = "; python -m jobs.bake --config tiny --workspace 'my runs' makes it"
    assert hint in capsys.readouterr().err


def test_a_finished_run_ends_with_its_folder_its_pages_and_its_notes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def bake_one(config: BakeConfig) -> None:
        with Run.open(config, "bake", inputs={}) as run:
            storage.write_text(run.path("report.html"), "<p>crusty</p>")
            run.finish(outputs=[], counts={}, views=["report.html"], notes=["made of rye"])

    assert run_job("bake", BakeConfig, bake_one, []) == 0
    assert capsys.readouterr().out == (
        f"bake: finished, {tmp_path}/runs/bread (open report.html)\n  note: made of rye\n"
    )


@pytest.mark.parametrize("error", [DataError("row 3 is short"), ResourceError("needs 4 CPU")])
def test_an_error_of_ours_is_one_message_without_a_traceback(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_job("bake", BakeConfig, fail_with(error), []) == entry.EXIT_FAILED
    assert capsys.readouterr().err == f"bake: {type(error).__name__}: {error}\n"


def test_a_used_up_budget_has_an_exit_code_of_its_own() -> None:
    error = BudgetError("token budget used up; raise teacher.budget_tokens")
    assert run_job("bake", BakeConfig, fail_with(error), []) == entry.EXIT_BUDGET
    quota = TeacherQuotaError("the account has no quota left")
    assert run_job("bake", BakeConfig, fail_with(quota), []) == entry.EXIT_FAILED


def test_an_interrupt_says_that_the_command_resumes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_job("bake", BakeConfig, fail_with(KeyboardInterrupt()), []) == 130
    assert "run the same command again" in capsys.readouterr().err


def test_an_error_that_is_not_ours_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run_job("bake", BakeConfig, fail_with(ZeroDivisionError()), [])


def test_a_relative_workspace_in_a_submitted_job_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    upload = tmp_path / entry.RAY_WORKING_DIRS / "pkg"
    upload.mkdir(parents=True)
    monkeypatch.chdir(upload)
    argv = ["--workspace", "runs/tiny"]
    assert run_job("bake", BakeConfig, fail_with(AssertionError()), argv) == entry.EXIT_CONFIG
    assert "give an absolute path or URL" in capsys.readouterr().err
    bake("--workspace", str(tmp_path))


@pytest.mark.parametrize("workspace", ["memory://x", "s3://bucket/x", ""])
def test_a_workspace_that_cannot_hold_the_run_is_refused(
    workspace: str, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--workspace", workspace]
    assert run_job("bake", BakeConfig, fail_with(AssertionError()), argv) == entry.EXIT_CONFIG
    assert "workspace" in capsys.readouterr().err


@pytest.mark.parametrize("job", JOBS)
def test_every_job_has_a_run_id_that_a_hint_can_name(job: str) -> None:
    config_class = importlib.import_module(f"jobs.{job}").CONFIG_CLASS
    assert "run_id" in config_class.model_fields


def test_an_input_that_no_config_names_is_found_by_its_class(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(entry, "CONFIGS", ROOT / "jobs" / "configs")
    missing = ManifestError("input 'base': /runs/MOSS-base has no manifest.json, so it is absent")
    argv = ["--config", "small"]
    assert run_job("train_sft", TrainSFTConfig, fail_with(missing), argv) == entry.EXIT_FAILED
    assert "; python -m jobs.pretrain --config small makes it" in capsys.readouterr().err


def test_restart_deletes_a_run_but_no_other_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "runs" / "bread"
    run.mkdir(parents=True)
    (run / "precious.txt").write_text("not a run", encoding="utf-8")
    assert run_job("bake", BakeConfig, fail_with(AssertionError()), ["--restart"]) == 2
    assert "no run made it" in capsys.readouterr().err
    (run / "config.yaml").write_text("run_id: bread\n", encoding="utf-8")
    bake("--restart")
    assert not (run / "precious.txt").exists()
    assert not (run / "config.yaml").exists()


@pytest.mark.parametrize("job", JOBS)
def test_help_is_light_and_starts_neither_ray_nor_torch(job: str) -> None:
    code = (
        "import json, runpy, sys, time\n"
        "start = time.process_time()\n"
        f"sys.argv = ['jobs.{job}', '--help']\n"
        "try: runpy.run_module(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end: code = end.code\n"
        "seconds = time.process_time() - start\n"
        "heavy = sorted({'ray', 'torch', 'vllm', 'transformers', 'pyarrow'} & set(sys.modules))\n"
        "print(json.dumps([code, seconds, heavy]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    *_, last = done.stdout.splitlines()
    exit_code, seconds, heavy = json.loads(last)
    assert exit_code == 0
    assert heavy == []
    # Processor time, so that a busy machine does not decide.
    assert seconds < 1.0
    assert "--config NAME|PATH" in done.stdout
    assert "\n  workspace: str = " in done.stdout
