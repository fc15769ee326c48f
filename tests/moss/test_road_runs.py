"""Which stages an earlier road finished: only those made from this config and these inputs."""

from pathlib import Path

import pytest

from moss.config import StageConfig
from moss.errors import ConfigError, ManifestError
from moss.lineage import Run
from moss.progress import Progress
from moss.road_runs import finished_manifest, finished_view, progress_note
from moss.storage import write_rows


class StubConfig(StageConfig):
    """A stage that copies."""

    source: str = "none"
    size: int = 1


def finish(config: StubConfig, *, inputs: dict[str, str] | None = None, rows: int = 3) -> None:
    with Run.open(config, "stub", inputs=inputs or {}) as run:
        write_rows(run.path("data/rows.parquet"), [{"id": str(i)} for i in range(rows)])
        counts = {"copy": {"ok": rows, "failed": 0, "filtered": 0, "skipped": 0}}
        run.finish(outputs=["data"], counts=counts)


def config(folder: Path, run_id: str, **values: object) -> StubConfig:
    return StubConfig.model_validate({"workspace": str(folder), "run_id": run_id, **values})


def test_a_run_that_is_absent_or_open_is_to_be_run(tmp_path: Path) -> None:
    mine = config(tmp_path, "a")
    assert finished_manifest(mine, "stub") is None
    Run.open(mine, "stub", inputs={}).close()
    assert finished_manifest(mine, "stub") is None


def test_a_finished_run_is_known_in_a_moved_workspace(tmp_path: Path) -> None:
    finish(config(tmp_path / "old", "a"))
    (tmp_path / "old").rename(tmp_path / "new")
    manifest = finished_manifest(config(tmp_path / "new", "a"), "stub")
    assert manifest is not None
    view = finished_view("a", "stub", "skipped", manifest)
    assert (view.num_rows, view.note) == (3, "finished earlier")


def test_a_finished_run_of_another_config_names_the_key(tmp_path: Path) -> None:
    finish(config(tmp_path, "a"))
    with pytest.raises(ConfigError, match="size: 1 -> 2"):
        finished_manifest(config(tmp_path, "a", size=2), "stub")


def test_a_finished_run_whose_input_was_made_anew_is_refused(tmp_path: Path) -> None:
    upper, lower = config(tmp_path, "a"), config(tmp_path, "b", source="a")
    finish(upper)
    finish(lower, inputs={"source": str(tmp_path / "a")})
    assert finished_manifest(lower, "stub") is not None
    (tmp_path / "a" / "manifest.json").unlink()
    with pytest.raises(ManifestError, match="'source' changed"):
        finished_manifest(lower, "stub")
    finish(upper)
    assert finished_manifest(lower, "stub") is not None


def test_altered_outputs_are_not_taken_for_finished(tmp_path: Path) -> None:
    mine = config(tmp_path, "a")
    finish(mine)
    (tmp_path / "a" / "data" / "rows.parquet").write_bytes(b"PAR1")
    with pytest.raises(ManifestError, match=r"rows\.parquet"):
        finished_manifest(mine, "stub")


def test_the_progress_of_a_running_stage_is_one_line(tmp_path: Path) -> None:
    assert progress_note(str(tmp_path)) == ""
    with Progress("pretrain", total=200, unit="steps", run_folder=str(tmp_path)) as progress:
        progress.update(done=50, note="loss 2.1")
    assert progress_note(str(tmp_path)).startswith("pretrain: 50/200 steps  25%")
