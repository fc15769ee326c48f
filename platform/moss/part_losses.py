"""The loss of a part of a minibatch: what differs between policy and critic in a PPO update.

Shapes: `B` rollouts, `T` tokens (prompt, response, right padding).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from moss.config.ppo import PPOConfig
from moss.forward import response_logprobs, response_values
from moss.kl import kl_loss
from moss.losses import policy_loss, value_loss
from moss.models import ValueModel
from moss.rollouts import Experience


@dataclass(frozen=True, slots=True)
class LossPart:
    """Loss of a part of a minibatch; all fields of the parts add up to those of the minibatch."""

    loss: Tensor
    clip_fraction: float
    approximate_kl: float = 0.0
    ratio_gap: float = 0.0


PartLoss = Callable[[nn.Module, Experience, int], LossPart]
"""Model, part of a minibatch, unmasked tokens of the whole minibatch -> its loss."""


def policy_part(config: PPOConfig, *, temperature: float) -> PartLoss:
    """The clipped policy loss of a part of a minibatch, and the KL term where the experience has
    one; see `moss.losses.policy_loss` and `moss.kl.kl_loss`."""

    def compute(model: nn.Module, part: Experience, num_tokens: int) -> LossPart:
        assert isinstance(model, PreTrainedModel), "the policy's learner holds a causal LM"
        tokens_BT, mask_BT, old_logprobs_BT, reference_BT, advantages_BT = _tensors(
            model.device,
            part.rollouts.tokens_BT,
            part.rollouts.mask_BT,
            part.logprobs_BT,
            part.reference_logprobs_BT,
            part.advantages_BT,
        )
        logprobs_BT = response_logprobs(model, tokens_BT, mask_BT, temperature=temperature)
        result = policy_loss(
            logprobs_BT,
            old_logprobs_BT,
            advantages_BT,
            mask_BT,
            clip_range=config.clip_range,
            num_tokens=num_tokens,
        )
        loss = result.loss
        if part.kl_loss_coefficient:
            kl = kl_loss(
                logprobs_BT, reference_BT, mask_BT, config.kl_estimator, num_tokens=num_tokens
            )
            loss = loss + part.kl_loss_coefficient * kl
        return LossPart(loss, result.clip_fraction, result.approximate_kl, result.ratio_gap)

    return compute


def value_part(config: PPOConfig) -> PartLoss:
    """The critic's loss on a part of a minibatch; see `moss.losses.value_loss`."""

    def compute(model: nn.Module, part: Experience, num_tokens: int) -> LossPart:
        assert isinstance(model, ValueModel), "the critic's learner holds a value model"
        assert part.critic is not None, "only estimators with a critic train one"
        tokens_BT, mask_BT, old_values_BT, returns_BT = _tensors(
            model.body.device,
            part.rollouts.tokens_BT,
            part.rollouts.mask_BT,
            part.critic.values_BT,
            part.critic.returns_BT,
        )
        result = value_loss(
            response_values(model, tokens_BT, mask_BT),
            old_values_BT,
            returns_BT,
            mask_BT,
            clip_range=config.value_clip_range,
            num_tokens=num_tokens,
        )
        return LossPart(result.loss, result.clip_fraction)

    return compute


def _tensors(device: torch.device, *arrays: npt.NDArray[np.generic]) -> list[Tensor]:
    return [torch.from_numpy(array).to(device) for array in arrays]
