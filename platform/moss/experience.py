"""From scored rollouts to what a PPO update learns from.

Shapes: `B` rollouts, `T` tokens (prompt, response, right padding); numpy in, numpy out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from moss.advantages import (
    compute_gae,
    compute_grpo,
    compute_reinforce_pp,
    compute_rloo,
    explained_variance,
    scale_scores,
    whiten,
)
from moss.config.ppo import PPOConfig
from moss.kl import estimate_kl, shape_rewards
from moss.losses import importance_weights
from moss.rewards.base import check_failed_fraction
from moss.rollouts import CriticTargets, Experience, Floats, Ints, RolloutBatch


@dataclass(frozen=True, slots=True)
class ScoredRollouts:
    """Rollouts with everything that is computed from them before the update."""

    rollouts: RolloutBatch
    prompts_B: Ints
    """Number of each row's prompt; responses to one prompt share it."""
    scores_B: Floats
    """All finite."""
    logprobs_BT: Floats
    reference_logprobs_BT: Floats
    values_BT: Floats | None
    """None where the estimator has no critic."""
    parts_B: Ints | None = None
    """Number of the part in which each row was scored, since rounding depends on the rows beside
    it; None where all were scored together."""


@dataclass(frozen=True, slots=True)
class ImportanceReport:
    """Correction of advantages from the rollout engine's probabilities to the trainer's."""

    weight: float
    """Mean over tokens; below 1 by what the cap and `top_p` take away."""
    capped_fraction: float
    """Share of tokens whose weight is the cap."""


@dataclass(frozen=True, slots=True)
class ExperienceReport:
    """What the rollouts looked like, before the update."""

    score: float
    """Mean score before normalization; units of the preference model, where that is the reward."""
    length_tokens: float
    stopped_fraction: float
    kl_nats: float
    """Mean over responses of log pi(y|x) - log pi_ref(y|x)."""
    logprob_gap_nats: float
    """Mean absolute difference per token of the rollout engine's logprob and the trainer's; with
    `top_p` < 1 it includes the nucleus' renormalisation."""
    importance: ImportanceReport | None
    """None where advantages are not corrected."""
    explained_variance: float | None
    """Of the critic, before its update; None without one."""


@dataclass(frozen=True, slots=True)
class UpdateReport:
    """Means over the optimizer steps that one PPO update took; not a number if it took none."""

    loss: float
    clip_fraction: float
    approximate_kl: float
    """KL(old || new) in nats per token; 0 for the critic."""
    gradient_norm: float
    """Before clipping."""
    learning_rate: float
    """Of the last minibatch that was computed."""
    num_skipped: int
    """Optimizer steps without a finite loss and gradient since training began."""
    first_ratio_gap: float
    """Mean distance from 1 of the ratio new / old before the first step: 0 up to rounding where the
    logprobs are those of the weights; 0 for the critic."""
    num_left_out: int
    """Minibatches of this update left out because the KL had passed `max_update_kl`."""


def drop_failed(
    scored: ScoredRollouts, failures: dict[int, str], *, max_failed_fraction: float = 1.0
) -> tuple[ScoredRollouts, list[dict[str, str]]]:
    """Take out the rollouts whose reward failed.

    Returns: the others, and one record with row and reason for each that was dropped.
    Raises:
        DataError: more than `max_failed_fraction` of the rewards failed, or all.
    """
    check_failed_fraction(failures, scored.rollouts.num_rollouts, most=max_failed_fraction)
    if not failures:
        return scored, []
    kept = [row for row in range(scored.rollouts.num_rollouts) if row not in failures]
    rollouts = scored.rollouts.rows(kept)
    width = rollouts.tokens_BT.shape[1]
    remaining = ScoredRollouts(
        rollouts=rollouts,
        prompts_B=scored.prompts_B[kept],
        scores_B=scored.scores_B[kept],
        logprobs_BT=scored.logprobs_BT[kept, :width],
        reference_logprobs_BT=scored.reference_logprobs_BT[kept, :width],
        values_BT=None if scored.values_BT is None else scored.values_BT[kept, :width],
        parts_B=None if scored.parts_B is None else scored.parts_B[kept],
    )
    return remaining, [{"row": str(row), "reason": failures[row]} for row in sorted(failures)]


def make_experience(
    scored: ScoredRollouts,
    config: PPOConfig,
    *,
    score_scale: float,
    score_mean: float = 0.0,
    kl_coefficient: float,
) -> tuple[Experience, ExperienceReport]:
    """Per-token rewards, advantages and returns (section 7.2, equation 2).

    Args:
        score_scale: spread that scores are divided by; 1 for none.
        score_mean: mean that is taken off first.
        kl_coefficient: beta of this iteration.
    """
    rollouts = scored.rollouts
    # Copies: arrays from Ray's object store are read-only.
    mask_BT = torch.tensor(rollouts.mask_BT)
    logprobs_BT = torch.tensor(scored.logprobs_BT)
    reference_BT = torch.tensor(scored.reference_logprobs_BT)
    rewards_B = scale_scores(
        torch.tensor(scored.scores_B) - score_mean,
        torch.tensor(rollouts.finished_B),
        scale=score_scale,
        clip=config.reward_clip,
        missing_end_penalty=config.missing_end_penalty,
    )
    kl_BT = estimate_kl(logprobs_BT, reference_BT, mask_BT, config.kl_estimator)
    in_reward = config.kl_placement == "reward"
    rewards_BT = shape_rewards(
        rewards_B, kl_BT, mask_BT, coefficient=kl_coefficient if in_reward else 0.0
    )
    advantages_BT, critic = _estimate_advantages(rewards_BT, mask_BT, scored, config)
    if config.whiten_advantages:
        advantages_BT = whiten(advantages_BT, mask_BT)
    importance: ImportanceReport | None = None
    if config.importance_cap is not None:
        weights_BT = importance_weights(
            logprobs_BT,
            torch.tensor(rollouts.rollout_logprobs_BT),
            mask_BT,
            cap=config.importance_cap,
        )
        # A weight of the clipped objective and one of its advantage are the same: both positive.
        advantages_BT = advantages_BT * weights_BT
        importance = _describe_weights(weights_BT[mask_BT], cap=config.importance_cap)
    experience = Experience(
        rollouts=rollouts,
        logprobs_BT=scored.logprobs_BT,
        reference_logprobs_BT=scored.reference_logprobs_BT,
        advantages_BT=advantages_BT.numpy(),
        critic=critic,
        kl_loss_coefficient=0.0 if in_reward else kl_coefficient,
    )
    return experience, _describe(scored, critic, importance)


def _describe(
    scored: ScoredRollouts, critic: CriticTargets | None, importance: ImportanceReport | None
) -> ExperienceReport:
    rollouts = scored.rollouts
    mask_BT = torch.tensor(rollouts.mask_BT)
    log_ratio_BT = estimate_kl(
        torch.tensor(scored.logprobs_BT), torch.tensor(scored.reference_logprobs_BT), mask_BT, "k1"
    )
    gap = np.abs(rollouts.rollout_logprobs_BT - scored.logprobs_BT)[rollouts.mask_BT]
    return ExperienceReport(
        score=float(scored.scores_B.mean()),
        length_tokens=rollouts.num_response_tokens / rollouts.num_rollouts,
        stopped_fraction=float(rollouts.finished_B.mean()),
        kl_nats=float(log_ratio_BT.sum(1).mean()),
        logprob_gap_nats=float(gap.mean()),
        importance=importance,
        explained_variance=_explained_variance(critic, mask_BT),
    )


def _estimate_advantages(
    rewards_BT: Tensor, mask_BT: Tensor, scored: ScoredRollouts, config: PPOConfig
) -> tuple[Tensor, CriticTargets | None]:
    """Advantages (B, T), and what the critic learns from where there is one."""
    prompts_B = torch.tensor(scored.prompts_B)
    match config.estimator:
        case "grpo":
            return compute_grpo(rewards_BT, prompts_B, mask_BT), None
        case "rloo":
            return compute_rloo(rewards_BT, prompts_B, mask_BT), None
        case "reinforce_pp":
            return compute_reinforce_pp(rewards_BT, mask_BT, gamma=config.gamma), None
    assert scored.values_BT is not None, "with gae the critic is started and asked"
    advantages_BT, returns_BT = compute_gae(
        rewards_BT,
        torch.tensor(scored.values_BT),
        mask_BT,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
    )
    return advantages_BT, CriticTargets(scored.values_BT, returns_BT.numpy())


def _describe_weights(weights_N: Tensor, *, cap: float) -> ImportanceReport:
    return ImportanceReport(float(weights_N.mean()), float((weights_N == cap).double().mean()))


def _explained_variance(critic: CriticTargets | None, mask_BT: Tensor) -> float | None:
    if critic is None:
        return None
    return explained_variance(
        torch.tensor(critic.values_BT), torch.tensor(critic.returns_BT), mask_BT
    )


def plan_minibatches(experience: Experience, config: PPOConfig, *, seed: int) -> list[list[int]]:
    """Row indices of every optimizer step of one update.

    Rows of like length share a minibatch, so little padding is computed; the order of minibatches
    is drawn anew for every epoch. Rows that do not divide give minibatches that differ by one.
    """
    order = np.argsort(experience.rollouts.lengths_B, kind="stable")
    groups = [g for g in np.array_split(order, config.num_minibatches) if len(g)]
    drawn = np.random.default_rng(seed)
    return [
        [int(row) for row in groups[index]]
        for _ in range(config.num_epochs)
        for index in drawn.permutation(len(groups))
    ]
