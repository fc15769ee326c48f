"""What has become of each rank of a role, and so whether its responses may be used.

    STARTING -> LOADED -> CURRENT (a version of the policy) -> CURRENT (a later version)
    CURRENT -> ASLEEP -> LOADED
    any of them -> DEAD -> STARTING

No way leads from DEAD to CURRENT but through a load and a push of weights, and none from ASLEEP but
through waking up and a push, so nothing is ever sampled from weights that only were there before.
Pure: a controller tells it what happened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from moss.errors import WeightSyncError


class Phase(Enum):
    """What an actor is ready for."""

    STARTING = "starting"
    LOADED = "loaded, without weights of the policy"
    CURRENT = "current"
    ASLEEP = "asleep"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class RankState:
    """One rank."""

    phase: Phase = Phase.STARTING
    version: int | None = None
    """Version of the weights it samples from or, before it slept, sampled from; None if there was
    none since it started."""


class RankStates:
    """The ranks of one role, which move on by what happens to them.

    Raises:
        WeightSyncError: an event that cannot follow, or a rank that must not sample; names it.
    """

    def __init__(self, role: str, num_ranks: int) -> None:
        """All ranks are starting."""
        self._role = role
        self._states = [RankState()] * num_ranks

    def __getitem__(self, rank: int) -> RankState:
        return self._states[rank]

    def die(self, ranks: Sequence[int]) -> None:
        """They died or were given up; allowed at any time."""
        for rank in ranks:
            self._states[rank] = RankState(Phase.DEAD)

    def start(self, ranks: Sequence[int]) -> None:
        """New actors took the places of dead ones."""
        for rank in ranks:
            self._require(rank, Phase.DEAD, event="start again")
            self._states[rank] = RankState(Phase.STARTING)

    def load(self, ranks: Sequence[int]) -> None:
        """They hold a model, for roles that follow the policy not yet its weights."""
        for rank in ranks:
            self._require(rank, Phase.STARTING, event="be loaded")
            self._states[rank] = RankState(Phase.LOADED)

    def sleep(self, ranks: Sequence[int]) -> None:
        """They freed their devices."""
        for rank in ranks:
            self._require(rank, Phase.CURRENT, event="fall asleep")
            self._states[rank] = RankState(Phase.ASLEEP, self._states[rank].version)

    def wake(self, ranks: Sequence[int]) -> None:
        """They took their devices again; whatever weights they have are not used."""
        for rank in ranks:
            self._require(rank, Phase.ASLEEP, event="wake up")
            self._states[rank] = RankState(Phase.LOADED, self._states[rank].version)

    def asleep(self) -> list[int]:
        """Ranks that must wake up before they do anything."""
        return [rank for rank, state in enumerate(self._states) if state.phase is Phase.ASLEEP]

    def refit(self, rank: int, version: int) -> None:
        """It took the policy's weights of a version, later than those it had."""
        self._require(rank, Phase.LOADED, Phase.CURRENT, event="take weights")
        held = self._states[rank].version
        if held is not None and version <= held:
            raise WeightSyncError(
                f"{self._role}[{rank}] holds weights version {held} and cannot go to {version}; a "
                "trainer publishes rising versions"
            )
        self._states[rank] = RankState(Phase.CURRENT, version)

    def check_current(self, version: int) -> None:
        """Raise unless every rank samples from this version."""
        for rank, state in enumerate(self._states):
            if state != RankState(Phase.CURRENT, version):
                holds = f"version {state.version}" if state.version is not None else "none"
                raise WeightSyncError(
                    f"{self._role}[{rank}] must sample from weights version {version}, but is "
                    f"{state.phase.value} (weights: {holds}); push the weights first"
                )

    def _require(self, rank: int, *phases: Phase, event: str) -> None:
        phase = self._states[rank].phase
        if phase not in phases:
            allowed = " or ".join(p.name for p in phases)
            raise WeightSyncError(
                f"{self._role}[{rank}] is {phase.name} and cannot {event}; it must be {allowed}"
            )
