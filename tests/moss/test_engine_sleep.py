"""No sequence of events makes an engine work while it sleeps or is broken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moss.config.ppo import SamplingParams
from moss.engine_sleep import EngineGate, Wakefulness
from moss.errors import ActorLostError, EngineSleepError, WeightSyncError
from moss.rollouts import Rollout, SampleRequest
from moss.weight_files import WeightFile


class FakeEngine:
    """Knows by itself whether it holds its device; fails as often as it is told."""

    def __init__(self) -> None:
        self.awake = True
        self.num_calls = 0
        self.fails = False

    policy_version = 0

    def generate(
        self, requests: Sequence[SampleRequest], params: SamplingParams, stop_ids: Sequence[int]
    ) -> list[Rollout]:
        assert self.awake
        return []

    def stream(
        self, requests: Sequence[SampleRequest], params: SamplingParams, stop_ids: Sequence[int]
    ) -> Iterator[tuple[int, Rollout]]:
        assert self.awake
        return iter(())

    def push_weights(self, file: WeightFile) -> None:
        assert self.awake

    def sleep(self, level: int) -> None:
        self._move(from_awake=True)

    def wake_up(self) -> None:
        self._move(from_awake=False)

    def close(self) -> None:
        """Nothing to free."""

    def _move(self, *, from_awake: bool) -> None:
        self.num_calls += 1
        assert self.awake is from_awake, "asked for what it has done"
        if self.fails:
            raise MemoryError("no room on the device")
        self.awake = not from_awake


@given(st.lists(st.sampled_from(["sleep", "wake", "work", "fail", "recover"]), max_size=20))
def test_no_sequence_of_events_makes_a_sleeping_or_broken_engine_work(events: list[str]) -> None:
    engine = FakeEngine()
    gate = EngineGate(engine, level=1)
    broken = False
    for event in events:
        if event in ("fail", "recover"):
            engine.fails = event == "fail"
            continue
        try:
            if event == "work":
                gate.require_awake("generate")
                assert not broken
                engine.generate([], SamplingParams(), [])
            else:
                before = engine.num_calls
                (gate.sleep if event == "sleep" else gate.wake_up)()
                assert not broken
                assert engine.awake is (event == "wake")
        except WeightSyncError:
            assert broken or not engine.awake
        except EngineSleepError:
            assert broken or engine.num_calls == before + 1
            broken = True
        assert (gate.state is Wakefulness.BROKEN) is broken


def test_what_failed_is_named_and_makes_the_actor_a_lost_one() -> None:
    engine = FakeEngine()
    gate = EngineGate(engine, level=2)
    gate.sleep()
    with pytest.raises(WeightSyncError, match="asleep and cannot take weights; it must be awake"):
        gate.require_awake("take weights")
    engine.fails = True
    with pytest.raises(
        EngineSleepError, match=r"did not wake up: MemoryError: no room .*kv_cache_gib"
    ) as it:
        gate.wake_up()
    assert isinstance(it.value, ActorLostError), "so that its actor is started anew"
    engine.fails = False
    with pytest.raises(EngineSleepError, match="broken; it has to be started anew"):
        gate.wake_up()
