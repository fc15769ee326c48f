"""Order and state machine of a road, over random graphs."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moss.config.base import parse_config
from moss.config.road import RoadConfig, StagePlan
from moss.errors import ConfigError, DataError
from moss.road import (
    Road,
    check_references,
    order_stages,
    parse_submission_id,
    road_id,
    submission_id,
)


def plan(run_id: str, *needs: str, uses_teacher: bool = False) -> StagePlan:
    return StagePlan(job="stub", run_id=run_id, needs=needs, uses_teacher=uses_teacher)


@st.composite
def shuffled_acyclic_stages(draw: st.DrawFn) -> list[StagePlan]:
    names = [f"run-{index}" for index in range(draw(st.integers(1, 9)))]
    stages = [
        plan(name, *draw(st.sets(st.sampled_from(names[:index] or ["none"]), max_size=3)))
        if index
        else plan(name)
        for index, name in enumerate(names)
    ]
    return draw(st.permutations(stages))


@given(shuffled_acyclic_stages())
def test_every_stage_comes_after_what_it_needs(stages: list[StagePlan]) -> None:
    ordered = order_stages(stages)
    assert sorted(s.run_id for s in ordered) == sorted(s.run_id for s in stages)
    place = {stage.run_id: index for index, stage in enumerate(ordered)}
    assert all(place[need] < place[stage.run_id] for stage in ordered for need in stage.needs)


def test_an_ordered_road_keeps_the_order_it_was_written_in() -> None:
    stages = [plan("a"), plan("b"), plan("c", "a"), plan("d", "b")]
    assert list(order_stages(stages)) == stages


def test_a_circle_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"circle: b, c"):
        order_stages([plan("a"), plan("b", "c"), plan("c", "b", "a")])


def test_an_unknown_need_is_refused_unless_the_run_exists() -> None:
    with pytest.raises(ConfigError, match=r"needs 'MOSS-bse'"):
        order_stages([plan("sft", "MOSS-bse")])
    assert [s.run_id for s in order_stages([plan("sft", "old")], known_runs=["old"])] == ["sft"]


@given(shuffled_acyclic_stages(), st.integers(0, 2**32), st.integers(1, 3))
def test_a_road_with_crashes_completes_and_never_runs_ahead_of_its_needs(
    stages: list[StagePlan], seed: int, num_parallel: int
) -> None:
    rng = random.Random(seed)
    road = Road(stages)
    done: list[str] = []
    while not road.complete:
        for stage in road.ready()[: num_parallel - len(road.in_state("running"))]:
            assert set(stage.needs) <= set(done)
            road.move(stage.run_id, "running")
        assert 1 <= len(road.in_state("running")) <= num_parallel
        finished = rng.choice(road.in_state("running")).run_id
        crashed = rng.random() < 0.3
        road.move(finished, "waiting" if crashed else "done")
        if not crashed:
            done.append(finished)
    assert sorted(done) == sorted(stage.run_id for stage in stages)


@given(shuffled_acyclic_stages(), st.integers(0, 2**32))
def test_only_stages_above_everything_unfinished_are_skipped(
    stages: list[StagePlan], seed: int
) -> None:
    rng = random.Random(seed)
    finished = {stage.run_id for stage in stages if rng.random() < 0.6}
    road = Road(stages)
    road.skip_finished(lambda stage: stage.run_id in finished)
    for stage in road.stages:
        if road.state(stage.run_id) == "skipped":
            assert stage.run_id in finished
            assert all(road.state(need) == "skipped" for need in stage.needs)
        elif stage.run_id in finished:
            assert any(road.state(need) == "waiting" for need in stage.needs)


@given(shuffled_acyclic_stages())
def test_a_finished_road_starts_nothing(stages: list[StagePlan]) -> None:
    road = Road(stages)
    road.skip_finished(lambda _: True)
    assert road.complete
    assert not road.ready()


def test_a_failed_stage_holds_up_only_its_dependents() -> None:
    road = Road([plan("a"), plan("b", "a"), plan("c")])
    road.move("a", "running")
    road.move("a", "failed")
    assert [stage.run_id for stage in road.ready()] == ["c"]
    assert road.stuck
    assert not road.complete


def test_illegal_moves_are_refused() -> None:
    road = Road([plan("a"), plan("b", "a")])
    with pytest.raises(DataError, match="not complete"):
        road.move("b", "running")
    with pytest.raises(DataError, match="from waiting to done"):
        road.move("a", "done")
    road.move("a", "running")
    road.move("a", "done")
    with pytest.raises(DataError, match="from done to running"):
        road.move("a", "running")


def test_the_teacher_is_needed_until_its_last_stage_is_complete() -> None:
    road = Road([plan("a", uses_teacher=True), plan("b", "a")])
    assert road.teacher_needed
    road.move("a", "running")
    assert road.teacher_needed
    road.move("a", "done")
    assert not road.teacher_needed


def test_a_run_read_without_being_needed_is_refused() -> None:
    stages = [plan("base"), plan("sft", "base"), plan("pat", "sft")]
    configs: dict[str, object] = {"base": {}, "sft": {"parent": "base"}, "pat": {"x": ["base"]}}
    check_references(stages, configs)
    configs["base"] = {"init": {"model": "pat"}}
    with pytest.raises(ConfigError, match=r"stage base reads run 'pat' \(config key init.model\)"):
        check_references(stages, configs)


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9.-]{0,20}", fullmatch=True), st.integers(0, 99))
def test_submission_ids_are_read_back(run_id: str, attempt: int) -> None:
    mine, other = road_id("tiny", "/a/runs"), road_id("tiny", "/b/runs")
    assert mine != other
    text = submission_id(mine, run_id, attempt)
    assert parse_submission_id(text, mine) == (run_id, attempt)
    assert parse_submission_id(text, other) is None


def test_two_stages_cannot_share_a_run_folder() -> None:
    stage = {"job": "stub", "run_id": "a"}
    with pytest.raises(ConfigError, match="run_id a is used twice"):
        parse_config(RoadConfig, {"stages": [stage, stage]}, source="road.yaml")
