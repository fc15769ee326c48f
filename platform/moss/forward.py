"""Forward passes of PPO: a logprob or a value per response token.

Shapes: `B` rollouts, `T` tokens (prompt, response, right padding), `N` response tokens, `V`
vocabulary. Right padding with causal attention needs no attention mask: no real token sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from moss.losses import token_logprobs
from moss.models import PreferenceModel, ValueModel
from moss.rank_rows import pick_rollouts
from moss.rollouts import Floats, Ints, RolloutBatch, length_sorted_groups


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


@torch.no_grad()
def likeliest_logprob(model: PreTrainedModel, prompt_ids: list[int]) -> float:
    """Natural-log probability of the likeliest token after a prompt, at temperature 1."""
    return float(likeliest_logprob_tensor(model, prompt_ids))


def likeliest_logprob_tensor(model: PreTrainedModel, prompt_ids: list[int]) -> Tensor:
    """The same as a scalar tensor, which a sharded model's hooks ask for."""
    ids = torch.tensor([prompt_ids], device=model.device)
    logits_V = model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[0, -1].float()
    return torch.log_softmax(logits_V, -1).max()


def scatter_response(values_N: Tensor, mask_BT: Tensor) -> Tensor:
    """(B, T) with `values_N`, given row by row, where the mask is True, and 0 elsewhere."""
    empty = torch.zeros(mask_BT.shape, dtype=values_N.dtype, device=values_N.device)
    return empty.masked_scatter(mask_BT, values_N)


def evaluate_tokens(
    compute: Callable[[Tensor, Tensor], Tensor],
    batch: RolloutBatch,
    *,
    device: torch.device,
    max_rows: int,
) -> Floats:
    """A (B, T) result of a whole batch, computed on groups of rows of like length.

    Args:
        compute: tokens (B, T) and mask (B, T) of a group to its result (B, T).
        max_rows: rows of the largest group.
    """
    groups = length_sorted_groups(batch.lengths_B, max_rows=max_rows)
    return evaluate_groups(compute, batch, groups, device=device)


@torch.no_grad()  # not inference_mode: weights that ZeRO gathers in it could not be trained after
def evaluate_groups(
    compute: Callable[[Tensor, Tensor], Tensor],
    batch: RolloutBatch,
    groups: Sequence[Ints],
    *,
    device: torch.device,
) -> Floats:
    """A (B, T) result of the rows in `groups`, 0 in all others.

    Args:
        compute: tokens (B, T) and mask (B, T) of a group to its result (B, T); called for an empty
            group too, with a row without response tokens.
    """
    result = np.zeros(batch.tokens_BT.shape, np.float32)
    for rows in groups:
        group = pick_rollouts(batch, rows)
        tokens_BT = torch.from_numpy(group.tokens_BT).to(device)
        values_BT = compute(tokens_BT, torch.from_numpy(group.mask_BT).to(device))
        if len(rows):
            result[rows, : values_BT.shape[1]] = values_BT.float().cpu().numpy()
    return result


def evaluate_logprobs(
    model: PreTrainedModel, batch: RolloutBatch, *, temperature: float, max_rows: int
) -> Floats:
    """(B, T) log probability of each response token; see `response_logprobs`."""
    return evaluate_tokens(
        lambda tokens_BT, mask_BT: response_logprobs(
            model, tokens_BT, mask_BT, temperature=temperature
        ),
        batch,
        device=model.device,
        max_rows=max_rows,
    )


@torch.inference_mode()
def evaluate_scores(
    model: PreferenceModel, batch: RolloutBatch, *, device: torch.device, max_rows: int
) -> Floats:
    """(B,) preference scores of whole sequences, read at each row's last token."""
    scores = np.zeros(batch.num_rollouts, np.float32)
    for rows in length_sorted_groups(batch.lengths_B, max_rows=max_rows):
        group = batch.rows(rows)
        tokens_BT = torch.from_numpy(group.tokens_BT).to(device)
        lengths_B = torch.from_numpy(group.lengths_B).to(device)
        real_BT = torch.arange(tokens_BT.shape[1], device=device) < lengths_B[:, None]
        scores[rows] = model(tokens_BT, real_BT).cpu().numpy()
    return scores
