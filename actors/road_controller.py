"""Walks a road: submits each stage when what it needs is complete, watches it, and adopts or ends
what a killed controller left running.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from actors.road_jobs import StageJob, StageRunner
from moss.config.road import RoadConfig, StagePlan
from moss.errors import ManifestError, MossError, WaitTimeoutError
from moss.manifest import Manifest
from moss.road import BROKEN, COMPLETE, Road, parse_submission_id, submission_id
from moss.road_runs import StageView, finished_view, progress_note, stop_reason
from moss.road_table import RoadDisplay

CLEAR_ERROR_CODES = frozenset({2, 3, 4})
"""Exit codes of `jobs.entry`: the stage said what is wrong, so another attempt changes nothing."""

STOP_TIMEOUT_S = 30.0


class StageFailedError(MossError):
    """A stage of the road did not finish; the message holds the end of its log."""


class RoadRuns(Protocol):
    """What the controller asks about a stage's run on disk."""

    def manifest(self, stage: StagePlan) -> Manifest | None:
        """The manifest, if the run is finished; see `moss.road_runs.finished_manifest`."""

    def folder(self, stage: StagePlan) -> str:
        """The run's folder."""

    def entrypoint(self, stage: StagePlan) -> str:
        """Shell command that runs the stage."""


@dataclass(slots=True)
class _Attempt:
    submission_id: str
    number: int
    started_at_s: float = field(default_factory=time.time)


class RoadController:
    """Runs the stages of one road on one cluster.

    Args:
        road: the stages, those finished earlier already skipped.
        runner: the cluster.
        runs: the runs on disk.
        name: the road's id, part of every submission id.
        env: environment of every stage's driver and actors.
        display: where states are shown.
        on_change: called after every change of state (ends what is no longer needed).
    """

    def __init__(
        self,
        road: Road,
        runner: StageRunner,
        runs: RoadRuns,
        *,
        config: RoadConfig,
        name: str,
        env: Mapping[str, str],
        display: RoadDisplay,
        on_change: Callable[[Road], None] = lambda _: None,
    ) -> None:
        self._road = road
        self._runner = runner
        self._runs = runs
        self._config = config
        self._name = name
        self._env = dict(env)
        self._display = display
        self._on_change = on_change
        self._attempts: dict[str, _Attempt] = {}
        self._last_number: dict[str, int] = {}
        self._started_here: dict[str, int] = {}
        self._manifests: dict[str, Manifest] = {}
        self._stop_reasons: dict[str, str] = {}

    def run(self) -> None:
        """Walk the road to its end.

        Raises:
            StageFailedError: a stage failed or stopped; nothing of this road runs any more.
        """
        self._adopt()
        failure: StageFailedError | None = None
        while not self._road.complete:
            self._start_ready()
            self._show()
            for stage in self._road.in_state("running"):
                try:
                    self._poll(stage)
                except StageFailedError as error:
                    is_stopped = stage.run_id in self._stop_reasons
                    self._road.move(stage.run_id, "stopped" if is_stopped else "failed")
                    failure = failure or error
            self._show()
            if self._road.stuck:
                assert failure is not None, "only `_poll` lets a stage fail"
                raise failure
            time.sleep(self._config.poll_interval_s)

    def stop_running(self) -> None:
        """End every stage that runs; the next road resumes them."""
        for stage in self._road.in_state("running"):
            self._runner.stop(self._attempts[stage.run_id].submission_id, timeout_s=STOP_TIMEOUT_S)

    def _adopt(self) -> None:
        """Take over this road's jobs that still run, and end those that must not."""
        commands = {stage.run_id: self._runs.entrypoint(stage) for stage in self._road.stages}
        for job in self._runner.jobs():
            parsed = parse_submission_id(job.submission_id, self._name)
            if parsed is None:
                continue
            run_id, number = parsed
            self._last_number[run_id] = max(number, self._last_number.get(run_id, 0))
            if job.state == "running":
                wanted = any(stage.run_id == run_id for stage in self._road.ready())
                if wanted and commands.get(run_id) == job.entrypoint:
                    self._take_over(run_id, number, job)
                else:
                    self._display.say(f"ending job {job.submission_id}: no longer wanted")
                    self._runner.stop(job.submission_id, timeout_s=STOP_TIMEOUT_S)

    def _take_over(self, run_id: str, number: int, job: StageJob) -> None:
        self._display.say(f"{run_id}: job {job.submission_id} still runs; watching it again")
        started_at_s = job.started_at_s or time.time()
        self._attempts[run_id] = _Attempt(job.submission_id, number, started_at_s)
        self._started_here[run_id] = 1
        self._road.move(run_id, "running")

    def _start_ready(self) -> None:
        if self._road.in_state(*BROKEN):
            return
        free = self._config.max_parallel_stages - len(self._road.in_state("running"))
        for stage in self._road.ready()[: max(0, free)]:
            number = self._last_number.get(stage.run_id, 0) + 1
            attempt = _Attempt(submission_id(self._name, stage.run_id, number), number)
            self._runner.submit(attempt.submission_id, self._runs.entrypoint(stage), self._env)
            self._last_number[stage.run_id] = number
            self._started_here[stage.run_id] = self._started_here.get(stage.run_id, 0) + 1
            self._attempts[stage.run_id] = attempt
            self._road.move(stage.run_id, "running")

    def _poll(self, stage: StagePlan) -> None:
        attempt = self._attempts[stage.run_id]
        job = self._runner.status(attempt.submission_id)
        if job.state == "running":
            self._check_timeout(stage, attempt)
        elif job.state == "succeeded":
            self._check_outputs(stage, attempt)
            self._road.move(stage.run_id, "done")
            self._on_change(self._road)
        elif self._may_retry(stage, job):
            self._display.say(
                f"{stage.run_id}: attempt {attempt.number} crashed ({job.message.strip()}); "
                "starting it again, it resumes"
            )
            self._road.move(stage.run_id, "waiting")
        else:
            raise self._failure(stage, attempt, job.message.strip() or f"job {job.state}")

    def _may_retry(self, stage: StagePlan, job: StageJob) -> bool:
        crashed = job.state == "failed" and job.exit_code not in CLEAR_ERROR_CODES
        return crashed and self._started_here[stage.run_id] < self._config.max_attempts

    def _check_timeout(self, stage: StagePlan, attempt: _Attempt) -> None:
        if time.time() - attempt.started_at_s <= stage.timeout_s:
            return
        message = (
            f"ran longer than its timeout_s={stage.timeout_s:.0f} and was stopped; raise timeout_s "
            "of the stage if its progress was steady, it will resume"
        )
        failure = self._failure(stage, attempt, message)
        try:
            self._runner.stop(attempt.submission_id, timeout_s=STOP_TIMEOUT_S)
        except WaitTimeoutError as error:
            raise StageFailedError(f"{failure}\n{error}") from error
        raise failure

    def _check_outputs(self, stage: StagePlan, attempt: _Attempt) -> None:
        try:
            manifest = self._runs.manifest(stage)
        except MossError as error:
            raise self._failure(stage, attempt, str(error)) from error
        if manifest is None:
            raise self._failure(stage, attempt, "its job ended well but left no finished run")
        self._manifests[stage.run_id] = manifest

    def _failure(self, stage: StagePlan, attempt: _Attempt, reason: str) -> StageFailedError:
        try:
            log = self._runner.log_tail(attempt.submission_id, self._config.num_log_lines)
        except MossError as error:
            log = f"(its log cannot be read: {error})"
        stopped = stop_reason(self._runs.folder(stage), since_s=attempt.started_at_s)
        if stopped is not None:
            self._stop_reasons[stage.run_id] = stopped
        how = "failed" if stopped is None else "stopped"
        return StageFailedError(
            f"stage {stage.run_id} ({stage.job}) {how}: {stopped or reason}\n"
            f"--- last lines of job {attempt.submission_id} ---\n{log}\n---\n"
            "Correct what the log names and give the same command again: finished stages are kept, "
            f"this one resumes in {self._runs.folder(stage)}"
        )

    def _show(self) -> None:
        self._display.show([self._view(stage) for stage in self._road.stages])

    def _view(self, stage: StagePlan) -> StageView:
        state = self._road.state(stage.run_id)
        if state in COMPLETE:
            return finished_view(stage.run_id, stage.job, state, self._manifest(stage))
        if state != "running":
            note = self._stop_reasons.get(stage.run_id, "")
            return StageView(stage.run_id, stage.job, state, note=note)
        seconds = time.time() - self._attempts[stage.run_id].started_at_s
        note = progress_note(self._runs.folder(stage))
        return StageView(stage.run_id, stage.job, state, seconds=seconds, note=note)

    def _manifest(self, stage: StagePlan) -> Manifest:
        if stage.run_id not in self._manifests:
            manifest = self._runs.manifest(stage)
            if manifest is None:
                raise ManifestError(f"run {self._runs.folder(stage)} vanished while the road ran")
            self._manifests[stage.run_id] = manifest
        return self._manifests[stage.run_id]
