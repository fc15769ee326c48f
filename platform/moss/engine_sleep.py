"""Whether a rollout engine may work: one that frees its device between batches of responses.

    AWAKE -> ASLEEP -> AWAKE            sleep, wake_up; asked again, each does nothing
    a sleep or wake that failed -> BROKEN, for ever

Only an engine that is awake samples or takes weights. What failed half-way holds nobody knows what,
so nothing leads back from BROKEN: the process has to be replaced.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Protocol

from moss.errors import EngineSleepError, WeightSyncError
from moss.sampling import StreamingSampler


class SleepyEngine(StreamingSampler, Protocol):
    """A sampler that can free its device."""

    def sleep(self, level: int) -> None:
        """Free the device.

        Args:
            level: 1 keeps the weights in the node's memory; 2 may drop them, since a push follows.
        """
        ...

    def wake_up(self) -> None:
        """Take the device again; the weights may be those before or none that are right."""
        ...


class Wakefulness(Enum):
    """What an engine is ready for."""

    AWAKE = "awake"
    ASLEEP = "asleep"
    BROKEN = "broken"


class EngineGate:
    """Lets an engine work only while it is awake."""

    def __init__(self, engine: SleepyEngine, *, level: int) -> None:
        """Take an engine that is awake; `level` is what it sleeps at."""
        self._engine, self._level = engine, level
        self.state = Wakefulness.AWAKE

    def sleep(self) -> None:
        """Free the device.

        Raises:
            EngineSleepError: the engine failed to, now or before.
        """
        self._move(Wakefulness.ASLEEP, lambda: self._engine.sleep(self._level))

    def wake_up(self) -> None:
        """Take the device again.

        Raises:
            EngineSleepError: the engine failed to, now or before.
        """
        self._move(Wakefulness.AWAKE, self._engine.wake_up)

    def require_awake(self, work: str) -> None:
        """Raise WeightSyncError unless the engine may work."""
        if self.state is not Wakefulness.AWAKE:
            raise WeightSyncError(
                f"the rollout engine is {self.state.value} and cannot {work}; it must be awake: "
                "wake it first, or start it anew if it is broken"
            )

    def _move(self, target: Wakefulness, move: Callable[[], None]) -> None:
        if self.state is target:
            return
        before, self.state = self.state, Wakefulness.BROKEN
        if before is Wakefulness.BROKEN:
            raise EngineSleepError("the rollout engine is broken; it has to be started anew")
        try:
            move()
        except Exception as error:  # whatever an engine raises, it is of no further use
            verb = "fall asleep" if target is Wakefulness.ASLEEP else "wake up"
            raise EngineSleepError(
                f"the rollout engine did not {verb}: {type(error).__name__}: {error}. If it lacked "
                "memory, lower rollout.vllm.kv_cache_gib or what shares its device"
            ) from error
        self.state = target
