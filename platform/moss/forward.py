"""Forward passes of PPO: a logprob or a value per response token.

Shapes: `B` rollouts, `T` tokens (prompt, response, right padding), `N` response tokens, `V`
vocabulary. Right padding with causal attention needs no attention mask: no real token sees it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from moss.losses import token_logprobs
from moss.models import ValueModel


def response_logprobs(
    model: PreTrainedModel, tokens_BT: Tensor, mask_BT: Tensor, *, temperature: float
) -> Tensor:
    """Log probability of every response token given all before it; 0 where masked.

    Only response positions go through the LM head.

    Args:
        mask_BT: True on response tokens; never on the first token of a row.
        temperature: what the response was sampled at.
    Returns: (B, T), natural log.
    """
    hidden = model.base_model(input_ids=tokens_BT, use_cache=False).last_hidden_state
    before = mask_BT[:, 1:]
    logits_NV = model.get_output_embeddings()(hidden[:, :-1][before])
    logprobs_N = token_logprobs(logits_NV, tokens_BT[mask_BT], temperature=temperature)
    return scatter_response(logprobs_N, mask_BT)


def response_values(model: ValueModel, tokens_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Critic's value before every response token, in score units; 0 where masked.

    Args:
        mask_BT: True on response tokens; never on the first token of a row.
    Returns: (B, T).
    """
    values_BT = model.values_of_packed(tokens_BT)
    return scatter_response(values_BT[:, :-1][mask_BT[:, 1:]], mask_BT)


def scatter_response(values_N: Tensor, mask_BT: Tensor) -> Tensor:
    """(B, T) with `values_N`, given row by row, where the mask is True, and 0 elsewhere."""
    empty = torch.zeros(mask_BT.shape, dtype=values_N.dtype, device=values_N.device)
    return empty.masked_scatter(mask_BT, values_N)
