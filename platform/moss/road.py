"""The order of a road's stages and the state each is in. Pure: no Ray, no clock, no processes.

States of a stage:

    waiting ──> running ──> done
       │           ├──────> failed
       │           ├──────> stopped     (a budget or quota is used up)
       │           └──────> waiting     (another attempt, or a killed driver's job that was stopped)
       └──────> skipped                 (an earlier run of the road finished it)

Legend: a stage *needs* the runs its config reads; a run is *complete* when it is done or skipped.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Literal

from moss.config.road import StagePlan
from moss.errors import ConfigError, DataError

StageState = Literal["waiting", "running", "done", "failed", "stopped", "skipped"]

_LEGAL: Mapping[StageState, frozenset[StageState]] = {
    "waiting": frozenset({"running", "skipped"}),
    "running": frozenset({"done", "failed", "stopped", "waiting"}),
    "done": frozenset(),
    "failed": frozenset(),
    "stopped": frozenset(),
    "skipped": frozenset(),
}
COMPLETE: frozenset[StageState] = frozenset({"done", "skipped"})
BROKEN: frozenset[StageState] = frozenset({"failed", "stopped"})


class Road:
    """State machine of one road. A stage runs only after everything it needs is complete.

    Args:
        stages: in the order in which they were written; it breaks ties.
        known_runs: runs that exist outside this road and may be needed by it.

    Raises:
        ConfigError: a need that names no stage and no known run, or a cycle.
    """

    def __init__(self, stages: Sequence[StagePlan], known_runs: Collection[str] = ()) -> None:
        self.stages = order_stages(stages, known_runs)
        self._states: dict[str, StageState] = {stage.run_id: "waiting" for stage in self.stages}

    def state(self, run_id: str) -> StageState:
        """State of a stage."""
        return self._states[run_id]

    def move(self, run_id: str, state: StageState) -> None:
        """Put a stage into another state.

        Raises:
            DataError: the move is not in the diagram above, or a need is not complete yet.
        """
        current = self._states[run_id]
        if state not in _LEGAL[current]:
            raise DataError(f"stage {run_id} cannot go from {current} to {state}")
        if current == "waiting" and not self._needs_complete(self.stage(run_id)):
            raise DataError(f"stage {run_id} cannot be {state}: what it needs is not complete")
        self._states[run_id] = state

    def stage(self, run_id: str) -> StagePlan:
        """The plan of a stage."""
        return next(stage for stage in self.stages if stage.run_id == run_id)

    def ready(self) -> list[StagePlan]:
        """Waiting stages whose needs are complete, in order."""
        waiting = [stage for stage in self.stages if self.state(stage.run_id) == "waiting"]
        return [stage for stage in waiting if self._needs_complete(stage)]

    def in_state(self, *states: StageState) -> list[StagePlan]:
        """Stages in one of `states`, in order."""
        return [stage for stage in self.stages if self.state(stage.run_id) in states]

    def skip_finished(self, is_finished: Callable[[StagePlan], bool]) -> None:
        """Skip every ready stage that `is_finished` reports, and so on down the road.

        A stage below an unfinished one is not asked: its inputs may change.
        """
        asked: set[str] = set()
        while fresh := [stage for stage in self.ready() if stage.run_id not in asked]:
            for stage in fresh:
                asked.add(stage.run_id)
                if is_finished(stage):
                    self.move(stage.run_id, "skipped")

    @property
    def complete(self) -> bool:
        """True if every stage is done or skipped."""
        return all(state in COMPLETE for state in self._states.values())

    @property
    def stuck(self) -> bool:
        """True if a stage failed or stopped and none is running."""
        return bool(self.in_state(*BROKEN)) and not self.in_state("running")

    @property
    def teacher_needed(self) -> bool:
        """True while a stage that calls the LLM endpoint is not complete."""
        open_stages = self.in_state("waiting", "running")
        return any(stage.uses_teacher for stage in open_stages)

    def _needs_complete(self, stage: StagePlan) -> bool:
        return all(self._states.get(need, "done") in COMPLETE for need in stage.needs)


def order_stages(
    stages: Sequence[StagePlan], known_runs: Collection[str] = ()
) -> tuple[StagePlan, ...]:
    """The stages so that each comes after its needs; otherwise in the order given.

    Raises:
        ConfigError: a need that names no stage and no known run, or a cycle.
    """
    run_ids = {stage.run_id for stage in stages}
    for stage in stages:
        for need in stage.needs:
            if need not in run_ids and need not in known_runs:
                raise ConfigError(
                    f"stage {stage.run_id} needs {need!r}, which is neither a stage of this road "
                    f"nor a finished run of its workspace; stages: {', '.join(sorted(run_ids))}"
                )
    ordered: list[StagePlan] = []
    placed: set[str] = set(known_runs) - run_ids
    while len(ordered) < len(stages):
        open_stages = [stage for stage in stages if stage.run_id not in placed]
        following = next((stage for stage in open_stages if placed.issuperset(stage.needs)), None)
        if following is None:
            names = ", ".join(stage.run_id for stage in open_stages)
            raise ConfigError(f"stages need one another in a circle: {names}; remove one `needs`")
        ordered.append(following)
        placed.add(following.run_id)
    return tuple(ordered)


def check_references(stages: Sequence[StagePlan], configs: Mapping[str, object]) -> None:
    """Refuse a stage whose config names another stage's run that it does not need.

    Args:
        stages: the plans.
        configs: run id -> the stage's resolved config as plain data.

    Raises:
        ConfigError: names the stage, the config key and the missing need.
    """
    by_run = {stage.run_id: stage for stage in stages}
    for stage in stages:
        for key, text in _strings(configs[stage.run_id]):
            if text in by_run and text != stage.run_id and text not in _ancestors(stage, by_run):
                raise ConfigError(
                    f"stage {stage.run_id} reads run {text!r} (config key {key}) but does not "
                    f"need it; add {text!r} to its `needs`"
                )


def road_id(name: str, workspace: str) -> str:
    """Name of this road on a cluster: the same for the same workspace, distinct for another."""
    return f"{name}-{hashlib.sha256(workspace.encode()).hexdigest()[:8]}"


def submission_id(road: str, run_id: str, attempt: int) -> str:
    """Id under which an attempt at a stage is submitted, unique on the cluster."""
    return f"{road}--{run_id}--{attempt}"


def parse_submission_id(text: str, road: str) -> tuple[str, int] | None:
    """Run id and attempt of one of this road's submissions; None for anybody else's."""
    match = re.fullmatch(rf"{re.escape(road)}--(.+)--(\d+)", text)
    return (match[1], int(match[2])) if match else None


def _ancestors(stage: StagePlan, by_run: Mapping[str, StagePlan]) -> set[str]:
    found: set[str] = set()
    open_ids = list(stage.needs)
    while open_ids:
        run_id = open_ids.pop()
        if run_id not in found:
            found.add(run_id)
            open_ids.extend(by_run[run_id].needs if run_id in by_run else ())
    return found


def _strings(node: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(node, str):
        yield prefix, node
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from _strings(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(node, Sequence):
        for index, value in enumerate(node):
            yield from _strings(value, f"{prefix}.{index}")
