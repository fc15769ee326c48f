"""GAE, whitening and reward scaling against plain Python loops."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable

import pytest
import torch

from moss.advantages import (
    compute_gae,
    compute_grpo,
    compute_reinforce_pp,
    compute_rloo,
    explained_variance,
    scale_scores,
    whiten,
)
from moss.errors import ShapeError

GARBAGE = [float("nan"), float("inf"), -float("inf"), 1e9, -1e9]


def gapped_mask(num_rows: int, width: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(num_rows, width, generator=generator) < 0.6
    mask[:, 0] = False
    mask[:, width // 2] = True
    return mask


def with_garbage(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    filled = values.clone()
    choices = random.Random(0)
    for row, column in (~mask).nonzero().tolist():
        filled[row, column] = choices.choice(GARBAGE)
    return filled


def gae_by_definition(
    rewards: list[float], values: list[float], *, gamma: float, gae_lambda: float
) -> list[float]:
    """A_t = sum_l (gamma lambda)^l delta_{t+l}, forwards, on unmasked steps only."""
    deltas = [
        rewards[t] + gamma * (values[t + 1] if t + 1 < len(values) else 0.0) - values[t]
        for t in range(len(values))
    ]
    return [
        sum((gamma * gae_lambda) ** (k - t) * deltas[k] for k in range(t, len(deltas)))
        for t in range(len(deltas))
    ]


@pytest.mark.parametrize(
    ("gamma", "gae_lambda"), [(1.0, 0.95), (0.9, 0.8), (1.0, 1.0), (0.99, 0.0)]
)
def test_gae_equals_its_definition_on_the_unmasked_steps_alone(
    gamma: float, gae_lambda: float
) -> None:
    mask = gapped_mask(6, 15, seed=1)
    rewards, values = torch.randn(6, 15), torch.randn(6, 15)
    advantages, returns = compute_gae(
        with_garbage(rewards, mask),
        with_garbage(values, mask),
        mask,
        gamma=gamma,
        gae_lambda=gae_lambda,
    )
    for row in range(6):
        steps = mask[row].nonzero()[:, 0].tolist()
        expected = gae_by_definition(
            [float(rewards[row, t]) for t in steps],
            [float(values[row, t]) for t in steps],
            gamma=gamma,
            gae_lambda=gae_lambda,
        )
        assert advantages[row, steps].tolist() == pytest.approx(expected, abs=1e-5)
        expected_returns = [a + float(values[row, t]) for a, t in zip(expected, steps, strict=True)]
        assert returns[row, steps].tolist() == pytest.approx(expected_returns, abs=1e-5)


def test_masked_positions_are_zero_whatever_stands_there() -> None:
    mask = gapped_mask(4, 9, seed=2)
    noise = with_garbage(torch.randn(4, 9), mask)
    for result in (
        *compute_gae(noise, noise, mask, gamma=1.0, gae_lambda=0.95),
        whiten(noise, mask),
    ):
        assert torch.all(result[~mask] == 0)
        assert torch.isfinite(result).all()


def test_a_gap_does_not_discount() -> None:
    rewards, values = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.5, 0.25, 0.75]])
    whole = torch.tensor([[True, True, True]])
    advantages, _ = compute_gae(rewards, values, whole, gamma=0.9, gae_lambda=0.7)
    spread = torch.tensor([[True, False, False, True, False, True]])
    gapped, _ = compute_gae(
        torch.zeros(1, 6).masked_scatter(spread, rewards),
        torch.full((1, 6), 100.0).masked_scatter(spread, values),
        spread,
        gamma=0.9,
        gae_lambda=0.7,
    )
    assert torch.allclose(gapped[spread], advantages[whole])


def test_rows_do_not_depend_on_the_batch_they_are_in() -> None:
    mask, rewards, values = gapped_mask(6, 11, seed=3), torch.randn(6, 11), torch.randn(6, 11)
    together, _ = compute_gae(rewards, values, mask, gamma=1.0, gae_lambda=0.95)
    apart = [
        compute_gae(
            rewards[i : i + 1], values[i : i + 1], mask[i : i + 1], gamma=1.0, gae_lambda=0.95
        )
        for i in range(6)
    ]
    assert torch.equal(together, torch.cat([advantages for advantages, _ in apart]))


GROUPS = [3, 0, 3, 1, 0, 3, 9]
"""Of seven rows: out of order, with gaps, and two rows alone in theirs."""


def summed(rewards: torch.Tensor, mask: torch.Tensor) -> list[float]:
    width = rewards.shape[1]
    return [
        sum(float(rewards[row, t]) for t in range(width) if mask[row, t])
        for row in range(len(rewards))
    ]


def grpo_by_definition(totals: list[float], row: int) -> float:
    group = [totals[other] for other in range(len(totals)) if GROUPS[other] == GROUPS[row]]
    if len(group) == 1:
        return 0.0
    return (totals[row] - statistics.mean(group)) / statistics.stdev(group)


def rloo_by_definition(totals: list[float], row: int) -> float:
    others = [
        totals[other]
        for other in range(len(totals))
        if other != row and GROUPS[other] == GROUPS[row]
    ]
    return totals[row] - statistics.mean(others) if others else 0.0


@pytest.mark.parametrize(
    ("compute", "by_definition"),
    [(compute_grpo, grpo_by_definition), (compute_rloo, rloo_by_definition)],
)
def test_group_estimators_equal_their_definitions_on_every_token(
    compute: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
    by_definition: Callable[[list[float], int], float],
) -> None:
    mask, rewards = gapped_mask(7, 13, seed=6), torch.randn(7, 13)
    advantages = compute(with_garbage(rewards, mask), torch.tensor(GROUPS), mask)
    totals = summed(rewards, mask)
    for row in range(7):
        expected = by_definition(totals, row)
        for t in range(13):
            wanted = expected if mask[row, t] else 0.0
            assert float(advantages[row, t]) == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("compute", [compute_grpo, compute_rloo])
def test_equal_rewards_of_a_prompt_teach_nothing(
    compute: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
) -> None:
    rewards, mask = torch.full((6, 1), 0.1), torch.ones(6, 1, dtype=torch.bool)
    advantages = compute(rewards, torch.tensor([0, 0, 0, 1, 1, 1]), mask)
    assert float(advantages.abs().max()) < 1e-6


def test_grpo_ignores_the_scale_of_a_prompts_rewards_and_rloo_keeps_it() -> None:
    mask, rewards = gapped_mask(4, 6, seed=7), torch.randn(4, 6)
    groups = torch.tensor([0, 0, 1, 1])
    tenfold = torch.where(groups[:, None] == 1, 10.0 * rewards, rewards)
    factors = torch.where(groups[:, None] == 1, 10.0, 1.0)
    assert torch.allclose(
        compute_grpo(tenfold, groups, mask), compute_grpo(rewards, groups, mask), atol=1e-4
    )
    assert torch.allclose(
        compute_rloo(tenfold, groups, mask),
        factors * compute_rloo(rewards, groups, mask),
        atol=1e-4,
    )


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_reinforce_pp_equals_whitened_returns_to_go(gamma: float) -> None:
    mask, rewards = gapped_mask(5, 11, seed=8), torch.randn(5, 11)
    advantages = compute_reinforce_pp(with_garbage(rewards, mask), mask, gamma=gamma)
    returns: list[float] = []
    for row in range(5):
        steps = [float(rewards[row, t]) for t in range(11) if mask[row, t]]
        returns += [
            sum(gamma ** (k - t) * steps[k] for k in range(t, len(steps)))
            for t in range(len(steps))
        ]
    mean, deviation = statistics.mean(returns), statistics.pstdev(returns)
    expected = [(value - mean) / deviation for value in returns]
    assert advantages[mask].tolist() == pytest.approx(expected, abs=1e-4)
    assert torch.all(advantages[~mask] == 0)


def test_whitening_reads_unmasked_entries_only() -> None:
    mask, values = gapped_mask(5, 12, seed=4), 3.0 + 2.0 * torch.randn(5, 12)
    whitened = whiten(with_garbage(values, mask), mask)
    kept = [float(v) for v in values[mask]]
    mean = sum(kept) / len(kept)
    deviation = math.sqrt(sum((v - mean) ** 2 for v in kept) / len(kept))
    assert whitened[mask].tolist() == pytest.approx(
        [(v - mean) / deviation for v in kept], abs=1e-4
    )


def test_scores_are_scaled_clipped_and_fined_for_a_missing_end() -> None:
    scores, finished = torch.tensor([1.0, -8.0, 2.0]), torch.tensor([True, True, False])
    scaled = scale_scores(scores, finished, scale=2.0, clip=3.0, missing_end_penalty=0.5)
    assert scaled.tolist() == pytest.approx([0.5, -3.0, 0.5])


def test_explained_variance_is_one_for_a_perfect_and_zero_for_a_constant_critic() -> None:
    mask, returns = gapped_mask(4, 8, seed=5), torch.randn(4, 8)
    assert explained_variance(with_garbage(returns, mask), returns, mask) == pytest.approx(1.0)
    assert explained_variance(torch.full_like(returns, 0.3), returns, mask) == pytest.approx(0.0)
    assert math.isnan(explained_variance(returns, torch.ones_like(returns), mask))


def test_unequal_shapes_are_refused_by_name() -> None:
    with pytest.raises(ShapeError, match=r"values_BT \(2, 4\)"):
        compute_gae(
            torch.zeros(2, 3), torch.zeros(2, 4), torch.ones(2, 3).bool(), gamma=1.0, gae_lambda=0.9
        )
    with pytest.raises(ShapeError, match=r"groups_B \(3,\)"):
        compute_rloo(torch.zeros(2, 3), torch.zeros(3).long(), torch.ones(2, 3).bool())
