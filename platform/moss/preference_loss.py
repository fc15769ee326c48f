"""The preference loss (paper section 7.1, Eq. 1).

Shapes: `R` responses, `P` pairs.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from moss.errors import ShapeError


def preference_loss_sum(scores_R: Tensor, winners_P: Tensor, losers_P: Tensor) -> Tensor:
    """Sum over pairs of -log sigmoid(r(x, y_w) - r(x, y_l)), in nats.

    Each response is scored once and may stand in many pairs.

    Args:
        scores_R: one score per response.
        winners_P, losers_P: index into `scores_R` of each pair's two responses.
    Returns: scalar; `P * log 2` when the scores of every pair are equal.
    Raises:
        ShapeError: the two index tensors differ in shape or hold a response that is not there.
    """
    if winners_P.shape != losers_P.shape:
        raise ShapeError(
            f"winners are {tuple(winners_P.shape)}, losers {tuple(losers_P.shape)}; expected equal"
        )
    highest = max(int(winners_P.max()), int(losers_P.max())) if winners_P.numel() else -1
    if highest >= scores_R.shape[0]:
        raise ShapeError(f"a pair names response {highest} of {scores_R.shape[0]}")
    return -logsigmoid(scores_R[winners_P] - scores_R[losers_P]).sum()
