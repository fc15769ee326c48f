"""No sequence of events lets a rank sample from weights that it does not hold."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from moss.errors import WeightSyncError
from moss.rank_states import Phase, RankStates

Event = tuple[str, int]
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["die", "start", "load", "refit", "sleep", "wake", "sample"]),
        st.integers(0, 3),
    ),
    max_size=30,
)


class Actor:
    """What a process really holds; the states are only what a controller believes of it."""

    def __init__(self) -> None:
        self.alive, self.model, self.version = True, False, None
        self.awake = True

    alive: bool
    model: bool
    version: int | None


def apply(states: RankStates, actor: Actor, event: Event) -> Actor:
    """Tell the states, and where they allow it do it; raises what they raise."""
    what, version = event
    if what == "die":
        states.die([0])
        actor.alive = False
    elif what == "start":
        states.start([0])
        actor = Actor()
    elif what == "load":
        states.load([0])
        assert actor.alive
        actor.model = True
    elif what == "refit":
        states.refit(0, version)
        assert actor.alive
        assert actor.model
        assert actor.awake
        actor.version = version
    elif what == "sleep":
        states.sleep([0])
        actor.awake, actor.version = False, None
    elif what == "wake":
        states.wake([0])
        assert actor.alive
        actor.awake = True
    else:
        states.check_current(version)
        assert (actor.alive, actor.awake, actor.version) == (True, True, version)
    return actor


@given(EVENTS)
@example([("load", 0), ("refit", 1), ("die", 0), ("start", 0), ("load", 0), ("sample", 1)])
@example([("load", 0), ("refit", 1), ("die", 0), ("refit", 2), ("sample", 2)])
@example([("load", 0), ("refit", 2), ("refit", 1), ("sample", 1)])
@example([("load", 0), ("refit", 1), ("sleep", 0), ("sample", 1)])
@example([("load", 0), ("refit", 1), ("sleep", 0), ("refit", 2), ("sample", 2)])
@example([("load", 0), ("refit", 1), ("sleep", 0), ("wake", 0), ("sample", 1)])
def test_no_sequence_of_events_samples_from_weights_that_are_not_held(events: list[Event]) -> None:
    states, actor = RankStates("rollout", 1), Actor()
    for event in events:
        try:
            actor = apply(states, actor, event)
        except WeightSyncError:
            continue


@given(EVENTS)
def test_from_anywhere_death_start_load_and_refit_lead_back_to_work(events: list[Event]) -> None:
    states, actor = RankStates("rollout", 1), Actor()
    for event in events:
        try:
            actor = apply(states, actor, event)
        except WeightSyncError:
            continue
    for event in [("die", 0), ("start", 0), ("load", 0), ("refit", 3), ("sample", 3)]:
        actor = apply(states, actor, event)


@given(EVENTS)
def test_versions_only_rise_between_deaths(events: list[Event]) -> None:
    states, actor = RankStates("rollout", 1), Actor()
    for event in events:
        before = states[0]
        try:
            actor = apply(states, actor, event)
        except WeightSyncError:
            assert states[0] == before
        if before.version is not None and states[0].phase is Phase.CURRENT:
            assert (states[0].version or 0) >= before.version
            if before.phase is Phase.LOADED:
                assert (states[0].version or 0) > before.version


def test_one_stale_rank_is_named() -> None:
    states = RankStates("rollout", 2)
    states.load(range(2))
    states.refit(0, 4)
    with pytest.raises(WeightSyncError, match=r"rollout\[1\] must sample .* version 4, .* loaded"):
        states.check_current(4)


def test_who_sleeps_must_wake_and_take_later_weights() -> None:
    states = RankStates("rollout", 2)
    states.load(range(2))
    states.refit(0, 4)
    states.refit(1, 4)
    states.sleep(range(2))
    assert states.asleep() == [0, 1]
    with pytest.raises(WeightSyncError, match=r"rollout\[0\] is ASLEEP and cannot take weights"):
        states.refit(0, 5)
    states.wake([0])
    with pytest.raises(WeightSyncError, match="holds weights version 4 and cannot go to 4"):
        states.refit(0, 4)
    states.refit(0, 5)
    with pytest.raises(WeightSyncError, match=r"rollout\[1\] must sample .* 5, but is asleep"):
        states.check_current(5)
