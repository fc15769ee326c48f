"""The actors of a PPO run: seated in their bundles, loaded side by side, ended together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from actors.bundles import Bundles, reserved_bundles
from actors.critic import CriticActor
from actors.group import ActorGroup
from actors.pending import Pending
from actors.policy import PolicyActor
from actors.ppo_trainer import PPOActors
from actors.reference import ReferenceActor
from actors.reward import RewardActor
from actors.rollout import RolloutActor
from actors.trained import join_ranks
from moss.config.ppo import TrainPPOConfig
from moss.config.ppo_actors import ActorConfig
from moss.ppo_inputs import PPOInputs
from moss.secret_keys import collect_keys

A = TypeVar("A")
C = TypeVar("C", bound=ActorConfig)


@contextmanager
def started_actors(config: TrainPPOConfig, inputs: PPOInputs) -> Iterator[PPOActors]:
    """All actors, loaded; they end with the block.

    Raises:
        ResourceError: their bundles were not reserved in time.
        ActorLostError, WaitTimeoutError: an actor did not start.
    """
    with reserved_bundles(config.placement, config.started_roles) as bundles:
        placed = config.actors
        actors = PPOActors(
            rollout=_start(bundles, "rollout", placed.rollout, RolloutActor),
            policy=_start(bundles, "policy", placed.policy, PolicyActor),
            critic=_start(bundles, "critic", placed.critic, CriticActor)
            if config.ppo.uses_critic
            else None,
            reference=_start(bundles, "reference", placed.reference, ReferenceActor),
            reward=_start(bundles, "reward", placed.reward, RewardActor),
        )
        try:
            _load(config, inputs, actors)
            yield actors
        finally:
            actors.stop()


def _start(bundles: Bundles, name: str, config: C, actor_class: Callable[[C], A]) -> ActorGroup[A]:
    return ActorGroup.start_in(bundles.get(name), name, config, actor_class, config)


def _load(config: TrainPPOConfig, inputs: PPOInputs, actors: PPOActors) -> None:
    ppo, start_s = config.ppo, config.timeouts.start_s
    num_steps = ppo.num_optimizer_steps(inputs.num_iterations(config))
    temperature = config.rollout.sampling.temperature
    loading: list[Pending[object]] = [
        *join_ranks(actors.policy, start_s),
        *(join_ranks(actors.critic, start_s) if actors.critic else []),
        actors.rollout.prepare(
            RolloutActor.load, inputs.policy, config.rollout, pad_id=inputs.pad_id
        ),
        actors.policy.call(
            PolicyActor.load, inputs.policy, ppo, num_steps=num_steps, temperature=temperature
        ),
        actors.reference.prepare(
            ReferenceActor.load,
            inputs.policy,
            temperature=temperature,
            max_rows=ppo.micro_batch_size,
        ),
        actors.reward.prepare(
            RewardActor.load,
            config.rewards,
            preference_model=inputs.preference_model,
            policy=inputs.policy,
            max_rows=ppo.micro_batch_size,
            keys=collect_keys(config.rewards.key_names),
        ),
    ]
    if actors.critic:
        loading.append(
            actors.critic.call(
                CriticActor.load,
                inputs.preference_model,
                ppo,
                num_steps=num_steps,
                score_scale=inputs.score_scale,
            )
        )
    for number, pending in enumerate(loading):
        pending.wait(start_s, beside=loading[number + 1 :])
