"""Losses of PPO and of the preference model's critic, as pure tensor functions.

Shapes: `B` rollouts, `T` tokens (prompt, response, right padding), `V` vocabulary; see
`moss.advantages` for the mask. Every loss is a sum over unmasked tokens divided by `num_tokens`,
the unmasked tokens of the whole minibatch over all ranks: parts of a minibatch then add up to its
loss and gradient, however it is cut.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from moss.advantages import check_shapes, fill_masked


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    """Clipped policy loss of one part of a minibatch."""

    loss: Tensor
    """Scalar, differentiable; parts of a minibatch add up."""
    clip_fraction: float
    """Share of the minibatch's tokens where the clip took the gradient away; parts add up."""
    approximate_kl: float
    """Mean k3 estimate of KL(old || new) in nats per token; parts add up."""
    ratio_gap: float
    """Mean distance of the probability ratio new / old from 1; parts add up."""


def policy_loss(
    logprobs_BT: Tensor,
    old_logprobs_BT: Tensor,
    advantages_BT: Tensor,
    mask_BT: Tensor,
    *,
    clip_range: float,
    num_tokens: int,
) -> PolicyLoss:
    """Clipped surrogate objective, negated (Schulman et al. 2017, sec. 3, eq. 7).

    Args:
        logprobs_BT: under the weights being trained; carries the gradient.
        old_logprobs_BT: under the weights that sampled.
        num_tokens: unmasked tokens of the whole minibatch.
    Raises:
        ShapeError: if the shapes differ.
    """
    check_shapes(
        logprobs_BT=logprobs_BT,
        old_logprobs_BT=old_logprobs_BT,
        advantages_BT=advantages_BT,
        mask_BT=mask_BT,
    )
    log_ratio = fill_masked(logprobs_BT, mask_BT) - fill_masked(old_logprobs_BT, mask_BT)
    advantages = fill_masked(advantages_BT, mask_BT)
    ratio = log_ratio.exp()
    plain = ratio * advantages
    clipped = ratio.clamp(1.0 - clip_range, 1.0 + clip_range) * advantages
    with torch.no_grad():
        lost = fill_masked((clipped < plain).float(), mask_BT).sum() / num_tokens
        moved = torch.expm1(log_ratio)
        kl = (moved - log_ratio).sum() / num_tokens
        gap = moved.abs().sum() / num_tokens
    loss = -torch.minimum(plain, clipped).sum() / num_tokens
    return PolicyLoss(loss, float(lost), float(kl), float(gap))


def importance_weights(
    logprobs_BT: Tensor, rollout_logprobs_BT: Tensor, mask_BT: Tensor, *, cap: float
) -> Tensor:
    """Per-token weights min(p / q, cap) of samples from q for means under p, 0 where masked
    (truncated importance sampling; Ionides 2008, sec. 2).

    Args:
        logprobs_BT: log p, under the trainer's weights.
        rollout_logprobs_BT: log q, under the distribution that the rollout engine drew from.
    Raises:
        ShapeError: if the shapes differ.
    """
    check_shapes(logprobs_BT=logprobs_BT, rollout_logprobs_BT=rollout_logprobs_BT, mask_BT=mask_BT)
    log_ratio = fill_masked(logprobs_BT, mask_BT) - fill_masked(rollout_logprobs_BT, mask_BT)
    return fill_masked(log_ratio.exp().clamp(max=cap), mask_BT)


@dataclass(frozen=True, slots=True)
class ValueLoss:
    """Critic's loss on one part of a minibatch."""

    loss: Tensor
    """Scalar, differentiable; parts of a minibatch add up."""
    clip_fraction: float
    """Share of the minibatch's tokens where the clip took the gradient away; parts add up."""


def value_loss(
    values_BT: Tensor,
    old_values_BT: Tensor,
    returns_BT: Tensor,
    mask_BT: Tensor,
    *,
    clip_range: float | None,
    num_tokens: int,
) -> ValueLoss:
    """Half the squared error, the larger of plain and clipped (Schulman et al. 2016; PPO's code).

    Args:
        values_BT: under the weights being trained; carries the gradient.
        old_values_BT: critic's values when the batch was scored.
        clip_range: farthest a value may move from the old one; None for the plain error.
        num_tokens: unmasked tokens of the whole minibatch.
    Raises:
        ShapeError: if the shapes differ.
    """
    check_shapes(
        values_BT=values_BT, old_values_BT=old_values_BT, returns_BT=returns_BT, mask_BT=mask_BT
    )
    values = fill_masked(values_BT, mask_BT)
    returns = fill_masked(returns_BT, mask_BT)
    plain = (values - returns).square()
    if clip_range is None:
        return ValueLoss(0.5 * plain.sum() / num_tokens, 0.0)
    old_values = fill_masked(old_values_BT, mask_BT)
    moved = old_values + (values - old_values).clamp(-clip_range, clip_range)
    clipped = (moved - returns).square()
    lost = (clipped > plain).sum() / num_tokens
    return ValueLoss(0.5 * torch.maximum(plain, clipped).sum() / num_tokens, float(lost))


def token_logprobs(logits_NV: Tensor, tokens_N: Tensor, *, temperature: float = 1.0) -> Tensor:
    """(N,) natural-log probability of each token under softmax(logits / temperature)."""
    scaled = logits_NV.float() / temperature
    return torch.log_softmax(scaled, dim=-1).gather(-1, tokens_N[:, None])[:, 0]
