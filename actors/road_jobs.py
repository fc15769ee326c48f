"""Stages as Ray jobs: submit, watch, stop and read the log through the Jobs API.

Nothing here waits for ever: the Jobs client has no timeouts of its own, so each call gets one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from moss.errors import ConfigError, ResourceError, WaitTimeoutError

T = TypeVar("T")

JobState = Literal["running", "succeeded", "failed", "stopped"]

_STATES: Mapping[JobStatus, JobState] = {
    JobStatus.PENDING: "running",
    JobStatus.RUNNING: "running",
    JobStatus.SUCCEEDED: "succeeded",
    JobStatus.FAILED: "failed",
    JobStatus.STOPPED: "stopped",
}


@dataclass(frozen=True, slots=True)
class StageJob:
    """What the cluster says of one submission."""

    submission_id: str
    state: JobState
    entrypoint: str
    message: str = ""
    exit_code: int | None = None
    """Exit code of the stage's driver; None if it was killed by a signal of the cluster."""
    started_at_s: float = 0.0
    """Unix time at which the driver started; 0 if it has not."""


class StageRunner(Protocol):
    """What the road's controller needs of a cluster."""

    def submit(self, submission_id: str, entrypoint: str, env: Mapping[str, str]) -> None:
        """Start a driver."""

    def status(self, submission_id: str) -> StageJob:
        """State of one submission."""

    def jobs(self) -> list[StageJob]:
        """Every submission that the cluster remembers."""

    def stop(self, submission_id: str, *, timeout_s: float) -> None:
        """End a driver and wait until it has ended."""

    def log_tail(self, submission_id: str, num_lines: int) -> str:
        """Last lines of a driver's output."""


class RoadJobs:
    """`StageRunner` on a Ray cluster.

    Args:
        address: its Jobs API, such as http://127.0.0.1:8265.
        runtime_env: what every stage runs in; `env` of each submission is merged into it.
        entrypoint_num_cpus: CPU share of a driver.
        request_timeout_s: longest to wait for one answer.

    Raises:
        ConfigError: nothing answers at `address`, or it refuses our token.
    """

    def __init__(
        self,
        address: str,
        *,
        runtime_env: Mapping[str, object],
        entrypoint_num_cpus: float,
        request_timeout_s: float,
    ) -> None:
        self.address = address
        self._runtime_env = dict(runtime_env)
        self._num_cpus = entrypoint_num_cpus
        self._timeout_s = request_timeout_s
        try:
            self._client = self._bounded(lambda: JobSubmissionClient(address), "to answer")
            self._bounded(self._client.list_jobs, "to list its jobs")
        except ResourceError as error:
            raise ConfigError(
                f"{error}. Check --address (the dashboard's http address) and, for a cluster with "
                "tokens, RAY_AUTH_MODE=token with RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
            ) from error

    def submit(self, submission_id: str, entrypoint: str, env: Mapping[str, str]) -> None:
        """Start a driver; the working directory is uploaded first if the runtime env names one.

        Raises:
            ResourceError: the cluster refused the submission.
        """
        base = self._runtime_env.get("env_vars", {})
        assert isinstance(base, Mapping), "runtime_env was checked when it was loaded"
        runtime_env = {**self._runtime_env, "env_vars": {**base, **env}}
        self._bounded(
            lambda: self._client.submit_job(
                entrypoint=entrypoint,
                submission_id=submission_id,
                runtime_env=runtime_env,
                entrypoint_num_cpus=self._num_cpus,
            ),
            f"to take {submission_id}",
        )

    def status(self, submission_id: str) -> StageJob:
        """State of one submission; a cluster that is silent for a moment is asked again."""
        what = f"to report {submission_id}"
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                details = self._bounded(lambda: self._client.get_job_info(submission_id), what)
                return _stage_job(details)
            except ResourceError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(1.0)

    def jobs(self) -> list[StageJob]:
        """Every submission that the cluster remembers."""
        listed = self._bounded(self._client.list_jobs, "to list its jobs")
        return [_stage_job(details) for details in listed if details.submission_id]

    def stop(self, submission_id: str, *, timeout_s: float) -> None:
        """End a driver (SIGTERM, then SIGKILL by Ray) and wait until it has ended.

        Raises:
            WaitTimeoutError: it still runs after `timeout_s`.
        """
        self._bounded(
            lambda: self._client.stop_job(submission_id),
            f"to take the order to stop {submission_id}",
        )
        deadline = time.monotonic() + timeout_s
        while self.status(submission_id).state == "running":
            if time.monotonic() > deadline:
                raise WaitTimeoutError(
                    f"job {submission_id} still runs {timeout_s:.0f} s after it was told to stop; "
                    f"look at it with: ray job logs {submission_id} --address {self.address}"
                )
            time.sleep(0.2)

    def log_tail(self, submission_id: str, num_lines: int) -> str:
        """Last lines of a driver's output."""
        what = f"for the log of {submission_id}"
        text = self._bounded(lambda: self._client.get_job_logs(submission_id), what)
        return "\n".join(text.splitlines()[-num_lines:])

    def _bounded(self, call: Callable[[], T], what: str) -> T:
        """`call` in a thread that is left behind if it does not end in time.

        Raises:
            ResourceError: the cluster refused or did not answer.
            WaitTimeoutError: it took the request and never answered.
        """
        results: list[T] = []
        errors: list[BaseException] = []

        def work() -> None:
            try:
                results.append(call())
            except BaseException as error:  # handed to the waiting thread below
                errors.append(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(self._timeout_s)
        if errors and isinstance(errors[0], RuntimeError | OSError | ValueError):
            raise ResourceError(
                f"the Ray Jobs API at {self.address} was asked {what} and failed: {errors[0]}"
            ) from errors[0]
        if errors:
            raise errors[0]
        if not results:
            raise WaitTimeoutError(
                f"waited {self._timeout_s:.0f} s for the Ray Jobs API at {self.address} {what}; "
                "is the cluster alive? raise request_timeout_s if it is only busy"
            )
        return results[0]


def _stage_job(details: JobDetails) -> StageJob:
    return StageJob(
        submission_id=details.submission_id or "",
        state=_STATES[details.status],
        entrypoint=details.entrypoint,
        message=details.message or "",
        exit_code=details.driver_exit_code,
        started_at_s=(details.start_time or 0) / 1000,
    )
