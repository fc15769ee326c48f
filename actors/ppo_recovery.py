"""How a PPO run survives the loss of actors.

Rollout, reward and reference actors hold nothing that cannot be had again: each is started anew on
its own, and the shard it was at is computed again (responses follow from weights, prompt and seed).
Policy and critic hold what the run has learned: losing one sends it back to its last state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TypeVar

from actors.group import ActorGroup
from actors.pending import Losses
from actors.ppo_trainer import PPOActors
from actors.weight_sync import WeightSync
from moss.config.ppo import TrainPPOConfig
from moss.errors import ActorLostError, MossError, WaitTimeoutError
from moss.faults import FaultLog
from moss.rank_states import RankStates

A = TypeVar("A")
R = TypeVar("R")

Refit = Callable[[Sequence[int]], dict[int, MossError]]
"""Gives ranks the policy's weights; returns those that were lost meanwhile."""


def run_with_resumes(
    start: Callable[[], AbstractContextManager[PPOActors]],
    run: Callable[[PPOActors], R],
    faults: FaultLog,
) -> R:
    """Start the actors and run; where that loses an actor, start all of them and run again.

    Raises:
        ActorLostError, WaitTimeoutError: actors did not start, or were lost too often.
    """
    while True:
        with start() as actors:
            try:
                return run(actors)
            except (ActorLostError, WaitTimeoutError) as error:
                faults.resume(error)


def guard_actors(
    actors: PPOActors, weights: WeightSync, config: TrainPPOConfig, faults: FaultLog
) -> None:
    """From now on, lost rollout, reward and reference actors are brought back; all are loaded."""
    start_s = config.timeouts.start_s
    _guard(actors.rollout, weights.states, weights.refit, start_s, faults)
    _guard(actors.reward, _loaded(actors.reward), None, start_s, faults)
    _guard(actors.reference, _loaded(actors.reference), None, start_s, faults)


def _loaded(group: ActorGroup[A]) -> RankStates:
    states = RankStates(group.name, group.num_ranks)
    states.load(range(group.num_ranks))
    return states


def _guard(
    group: ActorGroup[A],
    states: RankStates,
    refit: Refit | None,
    start_s: float,
    faults: FaultLog,
) -> None:
    def bring_back(losses: Losses) -> None:
        while losses:
            ranks = list(losses)
            states.die(ranks)
            for rank, why in losses.items():
                faults.restart(group.name, rank, why)
            loading = group.restart(ranks)
            states.start(ranks)
            loaded, losses = loading.settle(start_s)
            states.load(list(loaded))
            if refit and loaded:
                losses |= refit(list(loaded))

    group.guard(bring_back)
