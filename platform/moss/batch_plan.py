"""The rows and tokens of one PPO iteration, from its config alone: batches, shares of ranks."""

from __future__ import annotations

from dataclasses import dataclass

from moss.config.ppo import TrainPPOConfig
from moss.config.ppo_actors import ActorConfig


@dataclass(frozen=True, slots=True)
class BatchArithmetic:
    """One iteration in numbers; tokens are the most there can be."""

    num_prompts: int
    responses_per_prompt: int
    num_rollouts: int
    num_epochs: int
    num_minibatches: int
    """Per epoch."""
    minibatch_rollouts: int
    micro_batches: int
    """Per minibatch, of each rank of the policy; with nearly equal rollouts."""
    micro_batch_rollouts: int
    """Of the largest micro-batch."""
    optimizer_steps: int
    """Of policy and of critic, per iteration."""
    sequence_tokens: int
    response_tokens: int
    """Per iteration; what the losses are taken over."""
    tokens: int
    """Per iteration, prompts included."""


def plan_batches(config: TrainPPOConfig) -> BatchArithmetic:
    """The numbers of one iteration."""
    ppo, rollout = config.ppo, config.rollout
    rows = ppo.num_rollouts // ppo.num_minibatches
    return BatchArithmetic(
        num_prompts=ppo.num_prompts,
        responses_per_prompt=ppo.responses_per_prompt,
        num_rollouts=ppo.num_rollouts,
        num_epochs=ppo.num_epochs,
        num_minibatches=ppo.num_minibatches,
        minibatch_rollouts=rows,
        micro_batches=-(-_share(rows, config.actors.policy) // ppo.micro_batch_size),
        micro_batch_rollouts=trained_rows(config, config.actors.policy),
        optimizer_steps=ppo.num_optimizer_steps(1),
        sequence_tokens=rollout.max_sequence_tokens,
        response_tokens=ppo.num_rollouts * rollout.max_sampled_tokens,
        tokens=ppo.num_rollouts * rollout.max_sequence_tokens,
    )


def forward_rows(config: TrainPPOConfig, actor: ActorConfig) -> int:
    """Rows of the largest group that goes through a model without gradients."""
    return _largest_group(rollouts_per_rank(config, actor), config.ppo.micro_batch_size)


def trained_rows(config: TrainPPOConfig, actor: ActorConfig) -> int:
    """Rows of the largest micro-batch of a rank."""
    ppo = config.ppo
    rows = _share(ppo.num_rollouts // ppo.num_minibatches, actor)
    return _largest_group(rows, ppo.micro_batch_size)


def rollouts_per_rank(config: TrainPPOConfig, actor: ActorConfig) -> int:
    """Most of an iteration's rollouts that one rank scores."""
    return _share(config.ppo.num_rollouts, actor)


def _share(num_rows: int, actor: ActorConfig) -> int:
    """Most rows that one of the ranks gets."""
    return -(-num_rows // actor.num_ranks)


def _largest_group(num_rows: int, max_rows: int) -> int:
    """Of the fewest groups of nearly equal size; see `moss.rollouts.length_sorted_groups`."""
    num_groups = -(-num_rows // max_rows)
    return -(-num_rows // num_groups)
