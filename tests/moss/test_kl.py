"""KL estimates and shaped rewards."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from moss.errors import ShapeError
from moss.kl import (
    KLEstimator,
    adapt_coefficient,
    estimate_kl,
    kl_loss,
    last_response_position,
    shape_rewards,
)


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


@pytest.mark.parametrize(
    ("estimator", "formula", "slope"),
    [
        ("k2", lambda r: r * r / 2, lambda r: r),
        ("k3", lambda r: math.exp(-r) - 1 + r, lambda r: 1 - math.exp(-r)),
    ],
)
def test_the_loss_and_its_gradient_equal_a_plain_loop_however_it_is_cut(
    estimator: KLEstimator,
    formula: Callable[[float], float],
    slope: Callable[[float], float],
) -> None:
    policy, reference, mask = logprobs_and_mask(4)
    policy.requires_grad_()
    count = int(mask.sum())
    parts = [
        kl_loss(policy[rows], reference[rows], mask[rows], estimator, num_tokens=count)
        for rows in (slice(0, 2), slice(2, 5))
    ]
    total = parts[0] + parts[1]
    (gradient,) = torch.autograd.grad(total, policy)
    expected = 0.0
    for row, t in mask.nonzero().tolist():
        ratio = float(policy[row, t].detach()) - float(reference[row, t])
        expected += formula(ratio) / count
        assert float(gradient[row, t]) == pytest.approx(slope(ratio) / count, abs=1e-6)
    assert float(total.detach()) == pytest.approx(expected, abs=1e-5)
    assert torch.all(gradient[~mask] == 0)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_what_the_gradient_of_a_sampled_loss_averages_to(estimator: KLEstimator) -> None:
    """Every token weighed by its probability, in place of drawing it."""
    logits = torch.tensor([0.2, -0.4, 1.0], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([0.3, 0.3, 0.4], dtype=torch.float64)
    policy = torch.softmax(logits, 0)
    everywhere = torch.ones(1, 1, dtype=torch.bool)
    losses = torch.stack(
        [
            kl_loss(
                torch.log_softmax(logits, 0)[token].reshape(1, 1),
                reference[token].log().reshape(1, 1),
                everywhere,
                estimator,
                num_tokens=1,
            )
            for token in range(3)
        ]
    )
    divergences = {
        "k1": 0.0 * logits.sum(),
        "k2": (policy * (policy / reference).log()).sum(),
        "k3": (reference * (reference / policy).log()).sum(),
    }
    (expected,) = torch.autograd.grad(divergences[estimator], logits, retain_graph=True)
    (average,) = torch.autograd.grad((policy.detach() * losses).sum(), logits)
    assert torch.allclose(average, expected, atol=1e-12)


@pytest.mark.parametrize(
    ("kl_nats", "expected"),
    [
        (6.0, 0.1),
        (6.6, 0.1 * (1 + 0.1 * 32 / 1000)),
        (5.7, 0.1 * (1 - 0.05 * 32 / 1000)),
        (60.0, 0.1 * (1 + 0.2 * 32 / 1000)),
        (math.inf, 0.1 * (1 + 0.2 * 32 / 1000)),
        (-1.0, 0.1 * (1 - 0.2 * 32 / 1000)),
        (math.nan, 0.1),
    ],
)
def test_the_coefficient_follows_the_relative_error_up_to_a_fifth(
    kl_nats: float, expected: float
) -> None:
    adapted = adapt_coefficient(
        0.1, kl_nats=kl_nats, target_nats=6.0, num_responses=32, horizon=1000
    )
    assert adapted == pytest.approx(expected, rel=1e-12)


def test_an_adapted_coefficient_settles_where_the_kl_is_on_target() -> None:
    """A policy whose KL is inverse to its penalty."""
    coefficient = 0.01
    for _ in range(500):
        coefficient = adapt_coefficient(
            coefficient, kl_nats=0.3 / coefficient, target_nats=6.0, num_responses=32, horizon=1000
        )
    assert 0.3 / coefficient == pytest.approx(6.0, rel=1e-3)


def test_the_last_position_ignores_padding_and_gaps() -> None:
    mask = torch.tensor([[False, True, False, True, False], [True, False, False, False, False]])
    assert last_response_position(mask).tolist() == [3, 0]


def test_a_row_without_response_is_refused() -> None:
    mask = torch.tensor([[True, True], [False, False]])
    with pytest.raises(ShapeError):
        shape_rewards(torch.ones(2), torch.zeros(2, 2), mask, coefficient=0.1)
