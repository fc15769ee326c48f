"""The road's controller on a fake cluster: order, retries, timeouts, adoption, failures."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from actors.road_controller import RoadController, StageFailedError
from actors.road_jobs import JobState, StageJob
from moss.config.road import RoadConfig, StagePlan
from moss.errors import BudgetError, ResourceError
from moss.manifest import Manifest
from moss.progress import Progress
from moss.road import Road, submission_id
from moss.road_runs import StageView, stop_reason

ROAD = "road-0"


@dataclass
class FakeRuns:
    """Runs that exist once their job succeeded."""

    finished: set[str] = field(default_factory=set)

    def manifest(self, stage: StagePlan) -> Manifest | None:
        if stage.run_id not in self.finished:
            return None
        return Manifest(
            stage=stage.job, run_id=stage.run_id, code_version="0", config_digest="0", inputs={},
            outputs=(), counts={}, seconds=1.0, created_at="",
        )  # fmt: skip

    def folder(self, stage: StagePlan) -> str:
        return f"/nowhere/{stage.run_id}"

    def entrypoint(self, stage: StagePlan) -> str:
        return f"run {stage.run_id}"


@dataclass
class FakeCluster:
    """Ends each job at its second look, as `outcomes` says: exit codes, 0 by default."""

    runs: FakeRuns
    outcomes: dict[str, list[int | None]] = field(default_factory=dict)
    known: dict[str, StageJob] = field(default_factory=dict)
    submitted: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    hangs: set[str] = field(default_factory=set)
    most_running: int = 0

    def submit(self, submission_id: str, entrypoint: str, env: Mapping[str, str]) -> None:
        assert submission_id not in self.known
        assert env == {"A": "b"}
        self.submitted.append(submission_id)
        self.known[submission_id] = StageJob(submission_id, "running", entrypoint)
        running = sum(job.state == "running" for job in self.known.values())
        self.most_running = max(self.most_running, running)

    def status(self, submission_id: str) -> StageJob:
        job = self.known[submission_id]
        if job.state == "running" and submission_id not in self.hangs:
            run_id = submission_id.split("--")[1]
            code = (self.outcomes.get(run_id) or [0]).pop(0)
            state: JobState = "succeeded" if code == 0 else "failed"
            if code == 0:
                self.runs.finished.add(run_id)
            self.known[submission_id] = replace(job, state=state, exit_code=code, message="boom")
        return job

    def jobs(self) -> list[StageJob]:
        return list(self.known.values())

    def stop(self, submission_id: str, *, timeout_s: float) -> None:
        self.stopped.append(submission_id)
        self.known[submission_id] = replace(self.known[submission_id], state="stopped")

    def log_tail(self, submission_id: str, num_lines: int) -> str:
        return "the last line of its log"


class Screen:
    def __init__(self) -> None:
        self.said: list[str] = []
        self.states: list[list[str]] = []

    def show(self, views: Sequence[StageView]) -> None:
        self.states.append([view.state for view in views])

    def say(self, message: str) -> None:
        self.said.append(message)


STAGES = (
    StagePlan(job="stub", run_id="base"),
    StagePlan(job="stub", run_id="sft", needs=("base",)),
    StagePlan(job="stub", run_id="pat", needs=("sft",)),
)


def walk(
    cluster: FakeCluster, screen: Screen | None = None, stages: Sequence[StagePlan] = STAGES,
    **settings: object,
) -> Road:  # fmt: skip
    config = RoadConfig.model_validate(
        {"stages": [s.model_dump() for s in stages], "poll_interval_s": 0.001, **settings}
    )
    road = Road(config.stages)
    road.skip_finished(lambda stage: stage.run_id in cluster.runs.finished)
    RoadController(
        road, cluster, cluster.runs, config=config, name=ROAD, env={"A": "b"},
        display=screen or Screen(),
    ).run()  # fmt: skip
    return road


def ids(*names: str, attempt: int = 1) -> list[str]:
    return [submission_id(ROAD, name, attempt) for name in names]


def test_stages_run_in_order_one_at_a_time() -> None:
    cluster = FakeCluster(FakeRuns())
    screen = Screen()
    assert walk(cluster, screen).complete
    assert cluster.submitted == ids("base", "sft", "pat")
    assert cluster.most_running == 1
    assert screen.states[-1] == ["done"] * 3


def test_independent_stages_share_the_cluster_up_to_the_limit() -> None:
    stages = [StagePlan(job="stub", run_id=f"run-{number}") for number in range(5)]
    cluster = FakeCluster(FakeRuns())
    walk(cluster, stages=stages, max_parallel_stages=3)
    assert cluster.most_running == 3


def test_what_an_earlier_road_finished_is_not_submitted() -> None:
    cluster = FakeCluster(FakeRuns({"base"}))
    walk(cluster)
    assert cluster.submitted == ids("sft", "pat")


def test_a_crash_is_started_again_and_resumes() -> None:
    cluster = FakeCluster(FakeRuns(), outcomes={"sft": [-9, 0]})
    screen = Screen()
    walk(cluster, screen, max_attempts=2)
    assert cluster.submitted == [*ids("base", "sft"), *ids("sft", attempt=2), *ids("pat")]
    assert any("attempt 1 crashed" in message for message in screen.said)


@pytest.mark.parametrize("code", [2, 3, 4])
def test_a_clear_error_is_not_tried_again(code: int) -> None:
    cluster = FakeCluster(FakeRuns(), outcomes={"sft": [code]})
    with pytest.raises(StageFailedError, match=r"stage sft \(stub\) failed") as error:
        walk(cluster, max_attempts=5)
    assert "the last line of its log" in str(error.value)
    assert "/nowhere/sft" in str(error.value)
    assert cluster.submitted == ids("base", "sft")


def test_a_used_up_budget_stops_the_stage_and_says_why(tmp_path: Path) -> None:
    class Runs(FakeRuns):
        def folder(self, stage: StagePlan) -> str:
            return str(tmp_path / stage.run_id)

    class Capped(FakeCluster):
        def status(self, submission_id: str) -> StageJob:
            run_folder = str(tmp_path / "sft")
            if "sft" in submission_id:
                with suppress(BudgetError), Progress("sft", run_folder=run_folder):
                    raise BudgetError("token budget used up")
            return super().status(submission_id)

    screen = Screen()
    cluster = Capped(Runs(), outcomes={"sft": [4]})
    with pytest.raises(StageFailedError, match=r"sft \(stub\) stopped: BudgetError: token budget"):
        walk(cluster, screen, max_attempts=5)
    assert screen.states[-1] == ["done", "stopped", "waiting"]
    assert cluster.submitted == ids("base", "sft")
    # A later attempt that fails before it stores any progress is not taken for stopped.
    assert stop_reason(str(tmp_path / "sft"), since_s=time.time() + 2) is None


def test_a_stage_without_a_finished_run_failed_whatever_its_exit_code() -> None:
    cluster = FakeCluster(FakeRuns())
    cluster.runs.finished = _Never()
    with pytest.raises(StageFailedError, match="left no finished run"):
        walk(cluster)


def test_a_stage_over_its_time_is_stopped_and_named() -> None:
    stages = [StagePlan(job="stub", run_id="base", timeout_s=0.05)]
    cluster = FakeCluster(FakeRuns(), hangs=set(ids("base")))
    with pytest.raises(StageFailedError, match="longer than its timeout_s=0"):
        walk(cluster, stages=stages)
    assert cluster.stopped == ids("base")


def test_a_living_job_of_a_killed_road_is_watched_again() -> None:
    cluster = FakeCluster(FakeRuns({"base"}))
    name = ids("sft", attempt=4)[0]
    cluster.known[name] = StageJob(name, "running", "run sft")
    walk(cluster)
    assert cluster.submitted == ids("pat")
    assert not cluster.stopped


def test_a_living_job_that_is_not_wanted_is_ended_first() -> None:
    cluster = FakeCluster(FakeRuns({"base"}))
    changed, early, foreign = *ids("sft", attempt=4), *ids("pat"), "road-1--sft--1"
    cluster.known = {
        changed: StageJob(changed, "running", "run sft --set other"),
        early: StageJob(early, "running", "run pat"),
        foreign: StageJob(foreign, "running", "run sft"),
    }
    walk(cluster)
    assert sorted(cluster.stopped) == sorted([changed, early])
    assert cluster.submitted == [*ids("sft", attempt=5), *ids("pat", attempt=2)]


def test_a_cluster_that_is_gone_ends_the_road() -> None:
    class Gone(FakeCluster):
        def status(self, submission_id: str) -> StageJob:
            raise ResourceError("the Ray Jobs API does not answer")

    with pytest.raises(ResourceError):
        walk(Gone(FakeRuns()))


class _Never(set[str]):
    def add(self, item: str) -> None:
        return
