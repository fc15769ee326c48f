"""Releases step by step, with the evaluation as gate."""

from pathlib import Path

import pytest

from jobs.entry import EXIT_CONFIG
from jobs.promote import main
from moss import storage
from moss.config.base import StageConfig
from moss.lineage import Run
from moss.releases import Release, read_release


@pytest.fixture
def evaluation(tmp_path: Path) -> str:
    """PAT beats SFT 30 to 2; PPO loses to both; nobody compared PAT with itself."""

    def judged(winner: str, loser: str, wins: int, losses: int) -> list[dict[str, object]]:
        labels = ["a"] * wins + ["b"] * losses + ["tie"] * 5
        return [{"model_a": winner, "model_b": loser, "label": label} for label in labels]

    for name in ("SFT", "PAT", "PPO", "other"):
        with Run.open(
            StageConfig(workspace=str(tmp_path), run_id=f"run-{name}"), "train", inputs={}
        ) as run:
            run.finish(outputs=[], counts={}, model_name=name)
    config = StageConfig(workspace=str(tmp_path), run_id="evaluation")
    with Run.open(config, "evaluate", inputs={}) as run:
        rows = [*judged("PAT", "SFT", 30, 2), *judged("SFT", "PPO", 20, 3)]
        storage.write_rows(run.path("data", "judgments.parquet"), rows)
        run.finish(outputs=["data"], counts={})
    return run.folder


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "release.json"


def promote(file: Path, evaluation: str, flags: str) -> int:
    return main([*flags.split(), "--file", str(file), "--evaluation", evaluation])


def test_a_better_model_goes_from_canary_to_release_and_back(file: Path, evaluation: str) -> None:
    assert promote(file, evaluation, "--model SFT") == 0
    assert promote(file, evaluation, "--model PAT --share 0.1") == 0
    assert read_release(file) == Release(stable="SFT", canary="PAT", canary_share=0.1)
    assert promote(file, evaluation, "--model PAT") == 0
    assert read_release(file) == Release(stable="PAT", previous="SFT")
    assert promote(file, evaluation, "--rollback") == 0
    assert read_release(file).stable == "SFT"


def test_a_rollback_that_is_repeated_does_not_bring_the_bad_model_back(
    file: Path, evaluation: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for flags in ("--model SFT", "--model PAT", "--rollback"):
        assert promote(file, evaluation, flags) == 0
    assert promote(file, evaluation, "--rollback") == EXIT_CONFIG
    assert "nothing to undo: SFT" in capsys.readouterr().err
    assert read_release(file).stable == "SFT"
    assert promote(file, evaluation, "--model PAT") == 0
    assert promote(file, evaluation, "--rollback") == 0
    assert read_release(file).stable == "SFT"


def test_a_model_that_no_run_made_is_refused_with_the_near_name(
    file: Path, evaluation: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert promote(file, evaluation, "--model PTA --skip-evaluation") == EXIT_CONFIG
    assert "did you mean PAT? Made there: PAT, PPO, SFT, other" in capsys.readouterr().err
    assert not file.exists()
    assert promote(file, evaluation, f"--model SFT --workspace {tmp_path}/empty") == EXIT_CONFIG
    assert "Made there: none" in capsys.readouterr().err
    assert promote(file, "elsewhere/evaluation", f"--model SFT --workspace {tmp_path}") == 0


def test_a_missing_evaluation_names_the_flags_that_help(
    file: Path, tmp_path: Path, evaluation: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert promote(file, evaluation, "--model SFT") == 0
    assert promote(file, str(tmp_path / "none"), "--model PAT") == EXIT_CONFIG
    assert "--skip-evaluation" in capsys.readouterr().err
    assert read_release(file).stable == "SFT"


def test_a_worse_or_uncompared_model_is_refused_and_nothing_changes(
    file: Path, evaluation: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert promote(file, evaluation, "--model SFT") == 0
    assert promote(file, evaluation, "--model PPO --share 0.5") == EXIT_CONFIG
    assert "won 3 and lost 20 of 28" in capsys.readouterr().err
    assert promote(file, evaluation, "--model other") == EXIT_CONFIG
    assert "does not compare other with SFT" in capsys.readouterr().err
    assert read_release(file) == Release(stable="SFT")
    assert promote(file, evaluation, "--model PPO --skip-evaluation") == 0
    assert read_release(file).stable == "PPO"


def test_a_first_release_is_for_everybody(
    file: Path, evaluation: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert promote(file, evaluation, "--model SFT --share 0.5") == EXIT_CONFIG
    assert "release a model to everybody first" in capsys.readouterr().err
    assert promote(file, evaluation, "--rollback") == EXIT_CONFIG
    assert not file.exists()
    for share in ("0", "1.5", "x"):
        with pytest.raises(SystemExit):
            promote(file, evaluation, f"--model SFT --share {share}")
