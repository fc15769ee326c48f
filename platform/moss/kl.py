"""KL divergence of the policy from its reference: per token, in the reward, in the loss.

Shapes: `B` rollouts, `T` tokens (prompt, response, right padding); see `moss.advantages` for the
mask. Estimators after Schulman 2020, "Approximating KL divergence", all in nats, from samples of
the policy: `k1` unbiased, `k2` low variance and biased, `k3` unbiased and never negative.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, Literal

import torch
from torch import Tensor

from moss.advantages import check_shapes, fill_masked

KLEstimator = Literal["k1", "k2", "k3"]

_ESTIMATORS: Final[dict[KLEstimator, Callable[[Tensor], Tensor]]] = {
    "k1": lambda log_ratio: log_ratio,
    "k2": lambda log_ratio: 0.5 * log_ratio.square(),
    "k3": lambda log_ratio: torch.expm1(-log_ratio) + log_ratio,
}

_MAX_KL_ERROR: Final = 0.2
"""Bound on the relative error that moves the coefficient (Ziegler et al. 2019, sec. 2.2)."""


def estimate_kl(
    logprobs_BT: Tensor, reference_logprobs_BT: Tensor, mask_BT: Tensor, estimator: KLEstimator
) -> Tensor:
    """Per-token KL estimate (B, T) in nats, 0 where masked.

    With `k1` a row sums to log pi(y|x) - log pi_ref(y|x), the penalty of equation 2.

    Raises:
        ShapeError: if the shapes differ.
    """
    check_shapes(
        logprobs_BT=logprobs_BT, reference_logprobs_BT=reference_logprobs_BT, mask_BT=mask_BT
    )
    log_ratio = fill_masked(logprobs_BT, mask_BT) - fill_masked(reference_logprobs_BT, mask_BT)
    return _ESTIMATORS[estimator](log_ratio)


def shape_rewards(
    scores_B: Tensor, kl_BT: Tensor, mask_BT: Tensor, *, coefficient: float
) -> Tensor:
    """Per-token rewards (B, T) of equation 2: -beta * KL on each response token, plus the score on
    the last one; 0 where masked.

    Raises:
        ShapeError: if the shapes differ, or a row has no response token to carry its score.
    """
    check_shapes(kl_BT=kl_BT, mask_BT=mask_BT)
    check_shapes(scores_B=scores_B, rows_with_a_response=mask_BT[mask_BT.any(dim=1)][:, 0])
    rewards = -coefficient * fill_masked(kl_BT, mask_BT)
    rows = torch.arange(len(scores_B), device=scores_B.device)
    rewards[rows, last_response_position(mask_BT)] += scores_B.to(rewards.dtype)
    return rewards


def kl_loss(
    logprobs_BT: Tensor,
    reference_logprobs_BT: Tensor,
    mask_BT: Tensor,
    estimator: KLEstimator,
    *,
    num_tokens: int,
) -> Tensor:
    """Mean KL estimate per token as a term of the policy's loss (Shao et al. 2024, eq. 3).

    Over samples of the policy, the gradient of `k2` averages to that of KL(policy || reference),
    that of `k3` to that of KL(reference || policy), and that of `k1` to zero: `k1` is no loss.

    Args:
        logprobs_BT: under the weights being trained; carries the gradient.
        num_tokens: unmasked tokens of the whole minibatch.
    Returns: scalar in nats, differentiable; parts of a minibatch add up.
    Raises:
        ShapeError: if the shapes differ.
    """
    return estimate_kl(logprobs_BT, reference_logprobs_BT, mask_BT, estimator).sum() / num_tokens


def adapt_coefficient(
    coefficient: float, *, kl_nats: float, target_nats: float, num_responses: int, horizon: int
) -> float:
    """The next iteration's beta, so that the KL tends to a target (Ziegler et al. 2019, sec. 2.2).

    beta * (1 + e * num_responses / horizon), e = (KL - target) / target cut to +-0.2.

    Args:
        kl_nats: mean over an iteration's responses of log pi(y|x) - log pi_ref(y|x); one that is
            not a number leaves beta as it is.
        num_responses: responses of that iteration; Ziegler's K_beta = 0.1 is a tenth of `horizon`.
    """
    if math.isnan(kl_nats):
        return coefficient
    error = min(max(kl_nats / target_nats - 1.0, -_MAX_KL_ERROR), _MAX_KL_ERROR)
    return coefficient * (1.0 + error * num_responses / horizon)


def last_response_position(mask_BT: Tensor) -> Tensor:
    """(B,) index of the last True of each row."""
    positions = torch.arange(mask_BT.shape[1], device=mask_BT.device)
    return torch.where(mask_BT, positions, -1).max(dim=1).values
