"""The life of a run folder: begun, killed, resumed, finished, reopened, discarded."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from pydantic import Field

from moss import storage
from moss.config.base import Config, StageConfig, load_config
from moss.errors import ConfigError, DataError, LeaseError, ManifestError, StorageError
from moss.lineage import (
    Manifest,
    Run,
    count_statuses,
    discard_run,
    is_finished,
    load_manifest,
    verify_outputs,
)

KillAt = Callable[[str, Sequence[str]], dict[str, Path]]

ROWS = [{"id": str(number), "status": "ok"} for number in range(20)]


class Waits(Config):
    """A section of it."""

    execution_keys = frozenset({"timeout_s"})

    timeout_s: float = 1.0
    patience: int = 1


class Limits(Config):
    """A section that says nothing of what is made."""

    num_cpus: float = 1.0


class Stage(StageConfig):
    """Config of the stage these tests run."""

    learning_rate: float = 1e-5
    names: dict[str, str] = Field(default_factory=dict)


class LimitedStage(Stage):
    """The same with sections."""

    execution_keys = Stage.execution_keys | {"limits"}

    waits: Waits = Waits()
    limits: Limits = Limits()


def make_run(workspace: str, run_id: str = "run", **inputs: str) -> Manifest:
    """One whole run of the stage; the same work as BODY below."""
    with Run.open(Stage(workspace=workspace, run_id=run_id), "stage", inputs=inputs) as run:
        if run.manifest is not None:
            return run.manifest
        storage.write_rows(run.path("data", "rows.parquet"), ROWS)
        return run.finish(outputs=["data"], counts={"make": count_statuses(ROWS)})


def test_a_finished_run_is_finished_when_opened_again(place: str) -> None:
    first = make_run(place)
    config = Stage(workspace=place, run_id="run")
    with Run.open(config, "stage", inputs={}) as run:
        assert run.finished
        assert run.manifest == first
        with pytest.raises(StorageError, match="finished already"):
            run.finish(outputs=[], counts={})
    stored = storage.read_text(storage.join(place, "run", "config.yaml"))
    assert "learning_rate: 1.0e-05" in stored
    assert not storage.exists(storage.join(place, "run", "lease.json"))


def test_the_stored_config_loads_to_an_equal_config(tmp_path: Path) -> None:
    make_run(str(tmp_path))
    config = load_config(Stage, tmp_path / "run" / "config.yaml")
    assert config == Stage(workspace=str(tmp_path), run_id="run")


def test_a_changed_config_on_a_finished_run_names_each_key_old_and_new(place: str) -> None:
    make_run(place)
    changed = Stage(workspace=place, run_id="run", learning_rate=0.5, seed=7, names={"a": "b"})
    with pytest.raises(ConfigError) as caught:
        Run.open(changed, "stage", inputs={})
    message = str(caught.value)
    assert "learning_rate: 1e-05 -> 0.5" in message
    assert "seed: 42 -> 7" in message
    assert "names.a: 'absent' -> 'b'" in message
    assert "--run-id" in message
    assert "--restart" in message
    assert "workspace" not in message


def test_another_stage_may_not_use_the_folder(place: str) -> None:
    make_run(place)
    with pytest.raises(ConfigError, match="belongs to a run of stage, not of other"):
        Run.open(Stage(workspace=place, run_id="run"), "other", inputs={})


def test_a_moved_input_is_named(place: str) -> None:
    for name in ("prompts", "model"):
        make_run(place, name)
    inputs = {name: storage.join(place, name) for name in ("prompts", "model")}
    make_run(place, **inputs)
    storage.remove(inputs["prompts"])
    with Run.open(Stage(workspace=place, run_id="prompts", seed=1), "stage", inputs={}) as run:
        storage.write_rows(run.path("data", "rows.parquet"), ROWS[:3])
        run.finish(outputs=["data"], counts={})
    with pytest.raises(ManifestError, match=r"'prompts' changed from prompts \(\w+\)") as caught:
        make_run(place, **inputs)
    assert "'model'" not in str(caught.value)
    with pytest.raises(ManifestError, match="'prompts' was read before, now is not"):
        make_run(place, model=inputs["model"])


def test_an_input_that_is_not_finished_or_damaged_is_named(place: str) -> None:
    with pytest.raises(ManifestError, match=r"input 'model': .*absent or not finished"):
        make_run(place, model=storage.join(place, "never"))
    make_run(place, "base")
    storage.write_bytes(storage.join(place, "base", "data", "rows.parquet"), b"x")
    with pytest.raises(ManifestError, match=r"input 'model': .*data/rows\.parquet has 1 bytes"):
        make_run(place, model=storage.join(place, "base"))
    with pytest.raises(ManifestError, match=r"data/rows.parquet has 1 bytes"):
        make_run(place, "base")


def test_an_interrupted_run_resumes_only_under_its_own_config(place: str) -> None:
    with Run.open(Stage(workspace=place, run_id="run"), "stage", inputs={}) as run:
        pass
    with Run.open(Stage(workspace=place, run_id="run", seed=1), "stage", inputs={}) as run:
        assert not run.finished, "nothing was made yet, so another config may begin"
        storage.write_text(run.path("data", "part"), "made with seed 1")
    with pytest.raises(ConfigError, match="seed: 1 -> 2"):
        Run.open(Stage(workspace=place, run_id="run", seed=2), "stage", inputs={})
    with Run.open(Stage(workspace=place, run_id="run", seed=1), "stage", inputs={}) as run:
        assert storage.read_text(run.path("data", "part")) == "made with seed 1"


def test_a_run_goes_on_and_stays_finished_under_other_execution_keys(place: str) -> None:
    def opened(waits: Waits, limits: Limits) -> Run:
        config = LimitedStage(workspace=place, run_id="run", waits=waits, limits=limits)
        return Run.open(config, "stage", inputs={})

    with opened(Waits(), Limits()) as run:
        storage.write_text(run.path("data", "part"), "made")
    with pytest.raises(ConfigError, match=r"another config: waits\.patience: 1 -> 2\. "):
        opened(Waits(patience=2, timeout_s=9.0), Limits(num_cpus=2.0))
    with opened(Waits(timeout_s=9.0), Limits(num_cpus=2.0)) as run:
        assert "timeout_s: 9.0" in storage.read_text(run.path("config.yaml"))
        run.finish(outputs=["data"], counts={})
    with opened(Waits(timeout_s=8.0), Limits(num_cpus=3.0)) as run:
        assert run.finished


def test_a_second_controller_is_refused_and_a_failed_open_gives_the_lease_back(
    place: str,
) -> None:
    config = Stage(workspace=place, run_id="run")
    with Run.open(config, "stage", inputs={}) as run:
        with pytest.raises(LeaseError, match="is held by pid"):
            Run.open(config, "stage", inputs={})
        with pytest.raises(LeaseError, match="is held by pid"):
            discard_run(run.folder)
        storage.write_text(run.path("data", "part"), "x")
    with pytest.raises(ConfigError, match="seed"):
        Run.open(config.model_copy(update={"seed": 1}), "stage", inputs={})
    Run.open(config, "stage", inputs={}).close()


def test_a_controller_that_lost_its_lease_cannot_finish(place: str) -> None:
    with Run.open(Stage(workspace=place, run_id="run"), "stage", inputs={}) as run:
        path = run.path("lease.json")
        record = storage.read_json(path)
        assert isinstance(record, dict)
        storage.write_json(path, {**record, "token": "taker", "pid": 7})
        with pytest.raises(LeaseError, match="went to pid 7"):
            run.finish(outputs=[], counts={})
    assert not is_finished(run.folder)


def test_a_relative_workspace_holds_when_the_working_directory_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_run("runs", "base")
    with Run.open(Stage(workspace="runs", run_id="run"), "s", inputs={"m": "runs/base"}) as run:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        storage.write_text(run.path("file"), "x")
        run.finish(outputs=["file"], counts={})
    assert run.folder == str(tmp_path / "runs" / "run")
    assert verify_outputs(str(tmp_path / "runs" / "run")).inputs["m"].path == "base"


@pytest.mark.parametrize("run_id", ["", ".", "..", "a/b", "../a", "memory://a"])
def test_a_run_id_is_one_folder_name(tmp_path: Path, run_id: str) -> None:
    with pytest.raises(ConfigError, match="must be one folder name"):
        Run.open(Stage(workspace=str(tmp_path), run_id=run_id), "stage", inputs={})


def test_a_secret_in_the_config_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEACHER_API_KEY", "sk-0123456789abcdef")
    config = Stage(workspace=str(tmp_path), run_id="run", names={"key": "sk-0123456789abcdef"})
    with pytest.raises(ConfigError, match=r"TEACHER_API_KEY.*environment or a file") as caught:
        Run.open(config, "stage", inputs={})
    assert "sk-0123456789abcdef" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_numbers_that_are_not_whole_do_not_finish_a_run(place: str) -> None:
    with Run.open(Stage(workspace=place, run_id="run"), "stage", inputs={}) as run:
        with pytest.raises(DataError, match=r"'make' counts \['lost'\]"):
            run.finish(outputs=[], counts={"make": {"lost": 1}})
        with pytest.raises(DataError, match=r"\['train/loss_nats'\] are not finite"):
            run.finish(outputs=[], counts={}, metrics={"train/loss_nats": float("nan")})
        with pytest.raises(StorageError, match="was not written"):
            run.finish(outputs=["data"], counts={})
    assert not is_finished(run.folder)


def test_the_same_work_has_the_same_digest(tmp_path: Path) -> None:
    one, two = (make_run(str(tmp_path / name)) for name in ("one", "two"))
    assert one.manifest_digest == two.manifest_digest
    assert one.outputs == two.outputs


BODY = f"""
from moss import storage
from moss.lineage import Run, count_statuses
from moss.config.base import StageConfig

ROWS = {ROWS!r}

class Stage(StageConfig):
    learning_rate: float = 1e-5
    names: dict[str, str] = {{}}

def body(workspace):
    with Run.open(Stage(workspace=workspace, run_id="run"), "stage", inputs={{}}) as run:
        storage.write_rows(run.path("data", "rows.parquet"), ROWS)
        run.finish(outputs=["data"], counts={{"make": count_statuses(ROWS)}})
"""
# Files in the order a run writes them: lease, config, record of opening, rows, manifest.
_WRITE_POINTS = [
    f"storage/{step}:{write}"
    for write in range(1, 6)
    for step in ("temp_created", "temp_written", "renamed")
]
POINTS = [*_WRITE_POINTS, "run/config_written", "run/opened", "run/outputs_described"]
FINISHED_POINTS = ["storage/renamed:5", "run/finished"]


def test_a_run_killed_anywhere_is_whole_or_absent_and_resumes_to_the_same_digest(
    kill_at: KillAt, tmp_path: Path
) -> None:
    expected = make_run(str(tmp_path / "undisturbed"))
    points = sorted({*POINTS, *FINISHED_POINTS})
    for point, workspace in kill_at(BODY, points).items():
        folder = str(workspace / "run")
        if point in FINISHED_POINTS:
            assert verify_outputs(folder).manifest_digest == expected.manifest_digest, point
        else:
            with pytest.raises(ManifestError, match="not finished"):
                load_manifest(folder)
        for name in storage.list_files(folder):
            if name.endswith(".parquet"):
                assert storage.read_rows(storage.join(folder, name)) == ROWS, point
        resumed = make_run(str(workspace))
        assert resumed.manifest_digest == expected.manifest_digest, point
        assert not list(workspace.rglob("*moss-tmp*")), point


def test_a_discard_killed_anywhere_leaves_no_finished_run_and_can_be_repeated(
    kill_at: KillAt,
) -> None:
    body = BODY.replace("def body(", "def make(") + (
        "\ndef body(workspace):\n"
        "    from moss.lineage import discard_run\n"
        "    make(workspace)\n"
        "    discard_run(workspace + '/run')\n"
    )
    for workspace in kill_at(body, ["discard/manifest_removed", "discard/work_removed"]).values():
        assert not is_finished(str(workspace / "run"))
        discard_run(str(workspace / "run"))
        assert storage.list_files(str(workspace / "run")) == [".lease.lock"]


def test_discard_deletes_only_what_a_run_made(place: str) -> None:
    make_run(place)
    folder = storage.join(place, "run")
    discard_run(folder)
    discard_run(folder)
    assert set(storage.list_files(folder)) <= {".lease.lock"}
    assert not make_run(place).inputs, "the same run id may be used again"
    discard_run(folder)
    storage.write_text(storage.join(folder, "thesis.txt"), "years of work")
    with pytest.raises(ConfigError, match=r"holds no config\.yaml, so no run made it"):
        discard_run(folder)
    assert storage.exists(storage.join(folder, "thesis.txt"))
