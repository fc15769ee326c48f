"""KL estimates and shaped rewards."""

from __future__ import annotations

import math

import pytest
import torch

from moss.errors import ShapeError
from moss.kl import KLEstimator, estimate_kl, last_response_position, shape_rewards


def logprobs_and_mask(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(5, 10, generator=generator) < 0.6
    mask[:, 4] = True
    policy, reference = (-3.0 * torch.rand(5, 10, generator=generator) for _ in range(2))
    policy[~mask], reference[~mask] = float("nan"), 1e9
    return policy, reference, mask


def test_k1_sums_to_the_log_ratio_of_the_sequences() -> None:
    policy, reference, mask = logprobs_and_mask(0)
    kl = estimate_kl(policy, reference, mask, "k1")
    for row in range(5):
        expected = sum(
            float(policy[row, t]) - float(reference[row, t]) for t in range(10) if mask[row, t]
        )
        assert float(kl[row].sum()) == pytest.approx(expected, abs=1e-5)


def test_shaped_rewards_sum_to_equation_two() -> None:
    policy, reference, mask = logprobs_and_mask(1)
    kl = estimate_kl(policy, reference, mask, "k1")
    scores = torch.randn(5)
    rewards = shape_rewards(scores, kl, mask, coefficient=0.02)
    assert torch.allclose(rewards.sum(1), scores - 0.02 * kl.sum(1), atol=1e-6)
    assert torch.all(rewards[~mask] == 0)


def test_without_a_coefficient_the_score_stands_alone_on_the_last_response_token() -> None:
    policy, reference, mask = logprobs_and_mask(2)
    scores = torch.randn(5)
    rewards = shape_rewards(
        scores, estimate_kl(policy, reference, mask, "k1"), mask, coefficient=0.0
    )
    for row in range(5):
        last = max(t for t in range(10) if mask[row, t])
        expected = [float(scores[row]) if t == last else 0.0 for t in range(10)]
        assert rewards[row].tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("estimator", "formula"),
    [
        ("k1", lambda r: r),
        ("k2", lambda r: r * r / 2),
        ("k3", lambda r: math.exp(-r) - 1 + r),
    ],
)
def test_estimators_equal_their_formulas(estimator: KLEstimator, formula: object) -> None:
    policy, reference, mask = logprobs_and_mask(3)
    kl = estimate_kl(policy, reference, mask, estimator)
    assert callable(formula)
    for row, t in mask.nonzero().tolist():
        ratio = float(policy[row, t]) - float(reference[row, t])
        assert float(kl[row, t]) == pytest.approx(formula(ratio), abs=1e-5)
    assert torch.all(kl[~mask] == 0)


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_unbiased_estimators_average_to_the_divergence(estimator: KLEstimator) -> None:
    generator = torch.Generator().manual_seed(0)
    policy, reference = torch.tensor([0.6, 0.3, 0.1]), torch.tensor([0.3, 0.3, 0.4])
    divergence = float((policy * (policy / reference).log()).sum())
    drawn = torch.multinomial(policy, 200_000, replacement=True, generator=generator)[None]
    mask = torch.ones_like(drawn, dtype=torch.bool)
    kl = estimate_kl(policy.log()[drawn], reference.log()[drawn], mask, estimator)
    assert float(kl.mean()) == pytest.approx(divergence, abs=0.01)


def test_the_last_position_ignores_padding_and_gaps() -> None:
    mask = torch.tensor([[False, True, False, True, False], [True, False, False, False, False]])
    assert last_response_position(mask).tolist() == [3, 0]


def test_a_row_without_response_is_refused() -> None:
    mask = torch.tensor([[True, True], [False, False]])
    with pytest.raises(ShapeError):
        shape_rewards(torch.ones(2), torch.zeros(2, 2), mask, coefficient=0.1)
