"""Running a trained model over many sequences, batched by length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt
import torch

from moss.lm_losses import masked_lm_loss_sum
from moss.packing import SequenceSource, pad_right, plan_micro_batches

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from moss.models import PreferenceModel


def score_sequences(
    model: PreferenceModel, sequences: Sequence[Sequence[int]], *, token_budget: int
) -> npt.NDArray[np.float64]:
    """Preference scores (S,) of token sequences, in the order given.

    Args:
        token_budget: padded tokens of one forward pass.
    """
    scores = np.zeros(len(sequences), np.float64)
    if not sequences:
        return scores
    device = next(model.parameters()).device
    lengths = [len(sequence) for sequence in sequences]
    budget = max(token_budget, *lengths)
    with torch.inference_mode():
        for group in plan_micro_batches(lengths, num_workers=1, token_budget=budget)[0]:
            ids_BT, mask_BT = pad_right([sequences[i] for i in group], 0)
            scores[group] = model(ids_BT.to(device), mask_BT.to(device)).double().cpu().numpy()
    return scores


def held_out_loss(model: nn.Module, source: SequenceSource, *, token_budget: int) -> float:
    """Mean -log p per target over all sequences, in nats."""
    device = next(model.parameters()).device
    lengths = [int(length) for length in source.lengths]
    total = 0.0
    with torch.inference_mode():
        for group in plan_micro_batches(lengths, num_workers=1, token_budget=token_budget)[0]:
            rows = [source.sequence(index) for index in group]
            ids_BT, _ = pad_right([ids for ids, _ in rows], 0)
            mask_BT, _ = pad_right([mask for _, mask in rows], 0)
            policy = cast("PreTrainedModel", model)
            total += float(masked_lm_loss_sum(policy, ids_BT.to(device), mask_BT.to(device)))
    return total / max(1, int(source.target_counts.sum()))
