"""Next-token loss over the tokens a mask names.

Shapes: `B` sequences, `T` tokens, `H` hidden size, `N` targets, `V` vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from moss.errors import ShapeError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def masked_lm_loss_sum(model: PreTrainedModel, ids_BT: Tensor, loss_mask_BT: Tensor) -> Tensor:
    """Sum of -log p(token | tokens before it) over masked tokens, in nats.

    The sum, not the mean, so that micro-batches and workers add up to the loss of the whole batch.
    The LM head runs on targets only, which for short replies saves most of its cost. Rows are
    padded on the right, so a causal model needs no attention mask and padding has no effect.

    Args:
        ids_BT: token ids, right padded.
        loss_mask_BT: 1 where the token is a target; position 0 has no token before it and must be
            0 or is ignored.
    Returns: scalar, fp32; 0 when no token is a target.
    Raises:
        ShapeError: the shapes differ.
    """
    if ids_BT.shape != loss_mask_BT.shape:
        raise ShapeError(
            f"ids are {tuple(ids_BT.shape)}, loss mask {tuple(loss_mask_BT.shape)}; expected equal"
        )
    hidden_BTH = model.base_model(input_ids=ids_BT, use_cache=False)[0]
    positions_N = loss_mask_BT[:, 1:].reshape(-1).nonzero().squeeze(1)
    hidden_NH = hidden_BTH[:, :-1].reshape(-1, hidden_BTH.shape[-1]).index_select(0, positions_N)
    targets_N = ids_BT[:, 1:].reshape(-1).index_select(0, positions_N)
    logits_NV = model.get_output_embeddings()(hidden_NH).float()
    return cross_entropy(logits_NV, targets_N, reduction="sum")


def num_targets(loss_mask_BT: Tensor) -> int:
    """Tokens that carry loss: masked ones that have a token before them."""
    return int(torch.count_nonzero(loss_mask_BT[:, 1:]))
