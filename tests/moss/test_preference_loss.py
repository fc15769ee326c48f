"""Eq. 1 against plain Python."""

import math

import pytest
import torch

from moss.errors import ShapeError
from moss.preference_loss import preference_loss_sum


def test_loss_equals_the_plain_formula() -> None:
    scores = [0.3, -1.2, 2.0, 0.9]
    pairs = [(0, 1), (2, 0), (3, 2), (1, 3)]
    winners, losers = (torch.tensor(side) for side in zip(*pairs, strict=True))
    expected = sum(-math.log(1 / (1 + math.exp(scores[lo] - scores[w]))) for w, lo in pairs)
    loss = preference_loss_sum(torch.tensor(scores), winners, losers)
    assert float(loss) == pytest.approx(expected, rel=1e-6)


def test_equal_scores_cost_log_two_per_pair() -> None:
    index = torch.tensor([0, 1, 2])
    loss = preference_loss_sum(torch.zeros(4), index, index + 1)
    assert float(loss) == pytest.approx(3 * math.log(2))


def test_gradient_raises_the_winner_and_lowers_the_loser() -> None:
    scores_R = torch.zeros(2, requires_grad=True)
    preference_loss_sum(scores_R, torch.tensor([1]), torch.tensor([0])).backward()  # type: ignore[no-untyped-call]
    assert scores_R.grad is not None
    assert scores_R.grad.tolist() == [0.5, -0.5]


def test_a_huge_difference_does_not_overflow() -> None:
    loss = preference_loss_sum(torch.tensor([1e4, -1e4]), torch.tensor([1]), torch.tensor([0]))
    assert float(loss) == pytest.approx(2e4)


def test_a_response_that_is_not_there_is_refused() -> None:
    with pytest.raises(ShapeError, match="names response 5 of 2"):
        preference_loss_sum(torch.zeros(2), torch.tensor([5]), torch.tensor([0]))
