"""Advantages and returns for PPO and its kin, as pure tensor functions.

Shapes: `B` rollouts, `T` tokens (prompt, response, right padding). Every (B, T) tensor is aligned
with the token it speaks of: `values_BT[:, t]` is the critic's value before token `t`. `mask_BT` is
True on tokens the policy sampled; it may have gaps (tool results between two sampled spans). What
stands at masked positions is never read, NaN included.

GAE needs a critic. The others do not: GRPO and RLOO compare the responses to one prompt and give
all tokens of a response one advantage, REINFORCE++ takes each token's return. Two deviations: what
GRPO and RLOO compare is a response's summed reward, so a KL penalty in the reward counts; and the
loss weighs all tokens of a minibatch alike, where GRPO's authors first average each response.
"""

from __future__ import annotations

import torch
from torch import Tensor

from moss.errors import ShapeError


def compute_gae(
    rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, *, gamma: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates and value targets (Schulman et al. 2016, sec. 3, eq. 16).

    A gap in the mask is no time step: the next value and the next advantage pass over it
    unchanged, undiscounted.

    Args:
        rewards_BT: per-token reward; the score sits on the last response token.
        values_BT: critic's value before each token.
        mask_BT: True on response tokens.
    Returns: advantages (B, T), not whitened, and returns (B, T); both 0 where masked.
    Raises:
        ShapeError: if the three shapes differ.
    """
    check_shapes(rewards_BT=rewards_BT, values_BT=values_BT, mask_BT=mask_BT)
    rewards, values = fill_masked(rewards_BT, mask_BT), fill_masked(values_BT, mask_BT)
    advantages = torch.zeros_like(values)
    next_value = torch.zeros_like(values[:, 0])
    next_advantage = torch.zeros_like(next_value)
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = delta + gamma * gae_lambda * next_advantage
        next_value = torch.where(mask_BT[:, t], values[:, t], next_value)
        next_advantage = torch.where(mask_BT[:, t], advantage, next_advantage)
        advantages[:, t] = advantage
    advantages = fill_masked(advantages, mask_BT)
    return advantages, advantages + values


def compute_grpo(rewards_BT: Tensor, groups_B: Tensor, mask_BT: Tensor) -> Tensor:
    """Group-relative advantages (Shao et al. 2024, sec. 4.1.2): reward less the group's mean, over
    the group's standard deviation (of a sample: n - 1).

    Args:
        rewards_BT: per-token reward; its sum over a row is the response's reward.
        groups_B: number of each row's prompt, 0 or more; groups need not be whole or in order.
    Returns: advantages (B, T), 0 where masked, and in groups of one or of equal rewards.
    Raises:
        ShapeError: if the shapes differ.
    """
    centered_B, members_B = _center_by_group(rewards_BT, groups_B, mask_BT)
    squares_B = torch.bincount(groups_B, weights=centered_B.square())[groups_B]
    deviation_B = (squares_B / (members_B - 1).clamp(min=1)).sqrt()
    # Far above rounding and far below a deviation that means anything: equal rewards give 0.
    return _spread_over_tokens(centered_B / (deviation_B + 1e-6), rewards_BT, mask_BT)


def compute_rloo(rewards_BT: Tensor, groups_B: Tensor, mask_BT: Tensor) -> Tensor:
    """Advantages over a leave-one-out baseline (RLOO; Ahmadian et al. 2024): reward less
    the mean of the group's other responses.

    Arguments, result and errors are those of `compute_grpo`.
    """
    centered_B, members_B = _center_by_group(rewards_BT, groups_B, mask_BT)
    # r - (sum - r) / (n - 1) = (r - sum / n) * n / (n - 1); a group of one has no baseline: 0.
    advantages_B = centered_B * members_B / (members_B - 1).clamp(min=1)
    return _spread_over_tokens(advantages_B, rewards_BT, mask_BT)


def compute_reinforce_pp(rewards_BT: Tensor, mask_BT: Tensor, *, gamma: float) -> Tensor:
    """Each token's discounted return, whitened over the batch (REINFORCE++; Hu 2025).

    The mean over the batch is the baseline: no critic and no groups. With the KL in the reward, a
    token is held to account for the KL from itself onward.

    Args:
        rewards_BT: per-token reward; the score sits on the last response token.
    Returns: advantages (B, T), 0 where masked.
    Raises:
        ShapeError: if the shapes differ.
    """
    returns_BT, _ = compute_gae(
        rewards_BT, torch.zeros_like(rewards_BT), mask_BT, gamma=gamma, gae_lambda=1.0
    )
    return whiten(returns_BT, mask_BT)


def whiten(values_BT: Tensor, mask_BT: Tensor, *, eps: float = 1e-8) -> Tensor:
    """Zero mean, unit (population) variance over unmasked entries; 0 where masked.

    Raises:
        ShapeError: if the shapes differ.
    """
    check_shapes(values_BT=values_BT, mask_BT=mask_BT)
    values = fill_masked(values_BT, mask_BT)
    count = mask_BT.sum().clamp(min=1)
    centered = fill_masked(values - values.sum() / count, mask_BT)
    return centered * torch.rsqrt(centered.square().sum() / count + eps)


def scale_scores(
    scores_B: Tensor,
    finished_B: Tensor,
    *,
    scale: float,
    clip: float | None,
    missing_end_penalty: float,
) -> Tensor:
    """Preference scores as rewards.

    Args:
        scores_B: preference model's scores, its units.
        finished_B: True where the response ended by itself, False at the length limit.
        scale: spread of the scores stored with the preference model; 1 leaves them as they are.
        clip: bound on the scaled score; None for none.
        missing_end_penalty: taken off unfinished responses, after the clip.
    Returns: (B,) rewards. The mean is kept: it carries what a good response is.
    """
    check_shapes(scores_B=scores_B, finished_B=finished_B)
    scaled = scores_B / scale
    if clip is not None:
        scaled = scaled.clamp(-clip, clip)
    return torch.where(finished_B, scaled, scaled - missing_end_penalty)


def explained_variance(values_BT: Tensor, returns_BT: Tensor, mask_BT: Tensor) -> float:
    """1 - Var(returns - values) / Var(returns): 1 for a perfect critic, 0 for a constant one.

    NaN where the returns do not vary. Raises ShapeError if the shapes differ.
    """
    check_shapes(values_BT=values_BT, returns_BT=returns_BT, mask_BT=mask_BT)
    values, returns = values_BT[mask_BT].double(), returns_BT[mask_BT].double()
    if returns.numel() < 2 or float(returns.var()) == 0.0:
        return float("nan")
    return float(1.0 - (returns - values).var() / returns.var())


def fill_masked(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """`values_BT` with 0 where masked; unlike a product, it also removes NaN and infinity."""
    return torch.where(mask_BT, values_BT, torch.zeros_like(values_BT))


def _center_by_group(
    rewards_BT: Tensor, groups_B: Tensor, mask_BT: Tensor
) -> tuple[Tensor, Tensor]:
    """Each row's summed reward less its group's mean, and the members of its group.

    In double precision, so that equal rewards differ from their mean by next to nothing.
    """
    check_shapes(rewards_BT=rewards_BT, mask_BT=mask_BT)
    check_shapes(groups_B=groups_B, rows_of_the_mask=mask_BT[:, 0])
    rewards_B = fill_masked(rewards_BT, mask_BT).double().sum(1)
    members_B = torch.bincount(groups_B)[groups_B]
    return rewards_B - torch.bincount(groups_B, weights=rewards_B)[groups_B] / members_B, members_B


def _spread_over_tokens(advantages_B: Tensor, rewards_BT: Tensor, mask_BT: Tensor) -> Tensor:
    return torch.where(mask_BT, advantages_B[:, None], 0.0).to(rewards_BT.dtype)


def check_shapes(**tensors: Tensor) -> None:
    """Raise ShapeError naming every tensor unless all have one shape."""
    if len({tuple(tensor.shape) for tensor in tensors.values()}) > 1:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
        raise ShapeError(f"tensors must have one shape, got {shapes}")
