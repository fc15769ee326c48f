"""A road's mistakes are named before anything starts, and a plan starts nothing."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml

from jobs import road_plan, road_run
from jobs.entry import CONFIGS
from jobs.road_plan import RoadPlan, check_machine, downstream
from jobs.run_road import main
from moss.config.base import load_config
from moss.config.road import RoadConfig
from moss.config.synthesis import SynthesizePromptsConfig
from moss.errors import ConfigError, ResourceError
from moss.road_records import RoadLock
from tests.stub_endpoint import StubEndpoint, running

ROADS = sorted((CONFIGS / "run_road").glob("*.yaml"))


def write_road(folder: Path, *stages: dict[str, object], **settings: object) -> str:
    file = folder / "road.yaml"
    data = {"workspace": str(folder / "runs"), "stages": list(stages), **settings}
    file.write_text(yaml.safe_dump(data), encoding="utf-8")
    return str(file)


TOKENIZER: dict[str, object] = {"job": "train_tokenizer", "run_id": "tokenizer"}
PROMPTS: dict[str, object] = {
    "job": "synthesize_prompts", "run_id": "prompts-warmup", "config": "tiny_warmup",
    "uses_teacher": True,
}  # fmt: skip


def plan_of(file: str) -> RoadPlan:
    return RoadPlan(load_config(RoadConfig, file), python="python")


@pytest.fixture(autouse=True)
def nothing_may_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a cluster was started")

    monkeypatch.setattr("actors.local_cluster.LocalCluster.start", refuse)
    monkeypatch.delenv("TEACHER_BASE_URL", raising=False)


@pytest.mark.parametrize("file", ROADS, ids=lambda file: file.stem)
def test_every_shipped_road_fits_together(file: Path, tmp_path: Path) -> None:
    config = load_config(RoadConfig, file, [f"workspace={tmp_path}"])
    plan = RoadPlan(config, python="python")
    assert [stage.run_id for stage in plan.road.stages] == [s.run_id for s in config.stages]
    assert {"MOSS-base", "MOSS-Warmup", "MOSS-SFT", "MOSS-PAT", "MOSS-PPO"} <= set(plan.configs)


@pytest.mark.parametrize("file", ROADS, ids=lambda file: file.stem)
def test_only_stages_that_take_a_teacher_are_said_to_use_one(file: Path, tmp_path: Path) -> None:
    plan = RoadPlan(load_config(RoadConfig, file, [f"workspace={tmp_path}"]), python="python")
    for stage in plan.road.stages:
        assert stage.uses_teacher == hasattr(plan.configs[stage.run_id], "teacher"), stage.run_id


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"job": "train_tokeniser"}, "stage tokenizer: there is no job 'train_tokeniser'"),
        ({"job": "doctor"}, "stage tokenizer: jobs/doctor.py is no stage"),
        ({"config": "huge"}, r"stage tokenizer .*--config 'huge'"),
        ({"set": {"chinese_vocab_sise": 3}}, "did you mean 'chinese_vocab_size'"),
        ({"needs": ["corpus"]}, "needs 'corpus', which is neither a stage"),
        ({"needs": ["tokenizer"]}, "in a circle: tokenizer"),
    ],
)
def test_a_mistake_in_a_stage_is_named_with_the_stage(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_of(write_road(tmp_path, TOKENIZER | change))


def test_a_run_that_is_read_but_not_needed_is_named(tmp_path: Path) -> None:
    base: dict[str, object] = {"job": "pretrain", "run_id": "MOSS-base"}
    with pytest.raises(ConfigError, match="stage MOSS-base reads run 'tokenizer'"):
        plan_of(write_road(tmp_path, TOKENIZER, base))


def test_a_dry_run_prints_the_commands_and_makes_no_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_road(tmp_path, TOKENIZER | {"set": {"seed": 3}})
    assert main(["--config", file, "--dry-run"]) == 0
    assert "-m jobs.train_tokenizer --config tiny --run-id tokenizer" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


def test_an_unreachable_endpoint_is_refused_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEACHER_BASE_URL", "http://127.0.0.1:9/v1")
    assert main(["--config", write_road(tmp_path, PROMPTS)]) == 3
    assert "TeacherUnavailableError" in capsys.readouterr().err


def test_a_wrong_key_is_refused_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(StubEndpoint(lambda _: "", key="right")) as endpoint:
        monkeypatch.setenv("TEACHER_BASE_URL", endpoint.base_url)
        monkeypatch.setenv("TEACHER_API_KEY", "wrong")
        assert main(["--config", write_road(tmp_path, PROMPTS)]) == 3
    error = capsys.readouterr().err
    assert "TeacherAuthError" in error
    assert "wrong" not in error.replace("TeacherAuthError", "")


def test_a_second_road_in_the_workspace_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_road(tmp_path, TOKENIZER)
    with RoadLock(tmp_path / "runs" / "road"):
        assert main(["--config", file]) == 3
    assert "another road (pid" in capsys.readouterr().err


def test_too_little_memory_says_what_is_needed_and_what_there_is(tmp_path: Path) -> None:
    config = load_config(
        RoadConfig, write_road(tmp_path, TOKENIZER, cluster={"min_memory_bytes": 2**60})
    )
    with pytest.raises(ResourceError, match=r"needs 1073741824\.0 GiB of free memory.*has [\d.]+"):
        check_machine(config, str(tmp_path))


def test_a_cluster_elsewhere_needs_an_endpoint_that_its_nodes_reach(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_road(tmp_path, PROMPTS)
    assert main(["--config", file, "--address", "http://192.0.2.1:8265"]) == 2
    assert "cannot reach an offline teacher" in capsys.readouterr().err


def test_stopping_a_road_that_never_ran_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", write_road(tmp_path, TOKENIZER), "--stop"]) == 0
    assert "nothing of this road was running" in capsys.readouterr().out


def test_a_restart_takes_everything_below_with_it(tmp_path: Path) -> None:
    plan = RoadPlan(
        load_config(RoadConfig, CONFIGS / "run_road" / "tiny.yaml", [f"workspace={tmp_path}"]),
        python="python",
    )
    below = [stage.run_id for stage in downstream(plan.road.stages, "preferences")]
    assert below == [
        "chat", "evaluation", "MOSS-PPO", "MOSS-PAT", "preference-model", "preferences",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="names no stage"):
        downstream(plan.road.stages, "preference")


def test_the_uploaded_environment_names_this_checkout() -> None:
    env = road_run.uploaded_runtime_env()
    root = Path(road_plan.__file__).resolve().parents[1]
    assert env["working_dir"] == str(root)
    assert env["py_modules"] == [str(root / "platform" / "moss")]
    assert "/runs/" in str(env["excludes"])


def test_what_the_road_sets_of_the_teacher_holds_in_its_stages(tmp_path: Path) -> None:
    stage = {**PROMPTS, "set": {"teacher.concurrency": 3, "teacher.models.tools": "own"}}
    teacher = {"models": {"prompts": "ours"}, "concurrency": 5, "budget_tokens": 1000}
    plan = plan_of(write_road(tmp_path, TOKENIZER, stage, teacher=teacher))
    config = plan.configs["prompts-warmup"]
    assert isinstance(config, SynthesizePromptsConfig)
    assert config.teacher.model("prompts") == "ours"
    assert (config.teacher.model("judge"), config.teacher.model("tools")) == ("gpt-4", "own")
    assert (config.teacher.concurrency, config.teacher.budget_tokens) == (3, 1000)
    words = shlex.split(plan.entrypoint(plan.config.stages[1]))
    assert "teacher.budget_tokens=1000" in words
    assert "teacher" not in plan.entrypoint(plan.config.stages[0])
