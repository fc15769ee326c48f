"""How often a run may be mended, and which errors are none that a new start could mend."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import pytest

from actors.ppo_recovery import run_with_resumes
from actors.ppo_trainer import PPOActors
from moss.config.ppo_faults import PPOFaultsConfig
from moss.errors import ActorLostError, DataError, ResourceError, WaitTimeoutError
from moss.faults import FaultLog


class Starts:
    """Counts how often actors were started and stopped."""

    def __init__(self, error: Exception | None = None) -> None:
        self.started = self.stopped = 0
        self._error = error

    @contextmanager
    def start(self) -> Iterator[PPOActors]:
        self.started += 1
        if self._error:
            raise self._error
        try:
            yield cast(PPOActors, None)
        finally:
            self.stopped += 1


class Run:
    """Raises the errors given, one at each call, then ends."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = list(errors)

    def __call__(self, _: PPOActors) -> str:
        if self._errors:
            raise self._errors.pop(0)
        return "ended"


LOST = ActorLostError("policy[0] died\n  because of a fault" + " that is told at length" * 50)
SILENT = WaitTimeoutError("critic[0].update gave no answer within 5 s")


def test_lost_and_silent_trainers_start_the_run_anew_with_a_line_each(
    caplog: pytest.LogCaptureFixture,
) -> None:
    starts, faults = Starts(), FaultLog(PPOFaultsConfig(max_resumes=2))
    with caplog.at_level(logging.WARNING):
        assert run_with_resumes(starts.start, Run(LOST, SILENT), faults) == "ended"
    assert (starts.started, starts.stopped) == (3, 3)
    assert faults.metrics()["faults/resumes_count"] == 2
    lines = [record.getMessage() for record in caplog.records]
    assert "resume 1 of at most 2): policy[0] died because of a fault" in lines[0]
    assert [line.count("\n") for line in lines] == [0, 0]
    assert max(map(len, lines)) < 450


def test_past_the_bound_the_loss_is_the_error() -> None:
    starts, faults = Starts(), FaultLog(PPOFaultsConfig(max_resumes=1))
    with pytest.raises(WaitTimeoutError, match=r"critic\[0\]\.update"):
        run_with_resumes(starts.start, Run(LOST, SILENT), faults)
    assert (starts.started, starts.stopped) == (2, 2)


def test_other_errors_and_failed_starts_are_not_tried_again() -> None:
    faults = FaultLog(PPOFaultsConfig())
    for starts, run in (
        (Starts(), Run(DataError("all rewards failed"))),
        (Starts(), Run(ResourceError("reward[0] is lost again"))),
        (Starts(LOST), Run()),
    ):
        with pytest.raises((DataError, ResourceError)):
            run_with_resumes(starts.start, run, faults)
        assert starts.started == 1
    assert faults.num_resumes == 0


def test_restarts_are_bounded_for_each_role_and_name_the_last_cause() -> None:
    faults = FaultLog(PPOFaultsConfig(max_restarts_per_role=2))
    for rank in (0, 1):
        faults.restart("reward", rank, LOST)
    faults.restart("rollout", 0, LOST)
    with pytest.raises(
        ResourceError, match=r"reward\[1\] is lost again .*_role=2 .* gave no"
    ) as it:
        faults.restart("reward", 1, SILENT)
    assert not isinstance(it.value, ActorLostError), "else the whole run would start anew"
    assert faults.metrics()["faults/restarts_count"] == 3
