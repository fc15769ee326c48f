"""PPO losses against plain Python, finite differences, and every way of cutting a batch."""

from __future__ import annotations

import math

import pytest
import torch

from moss.errors import ShapeError
from moss.losses import importance_weights, policy_loss, token_logprobs, value_loss
from moss.rollouts import length_sorted_groups

CLIP = 0.2


def batch(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(6, 9, generator=generator) < 0.6
    mask[:, 3] = True
    new, old = (-2.0 * torch.rand(6, 9, generator=generator, dtype=torch.float64) for _ in range(2))
    advantages = torch.randn(6, 9, generator=generator, dtype=torch.float64)
    for tensor, garbage in ((new, 1e9), (old, float("nan")), (advantages, float("inf"))):
        tensor[~mask] = garbage
    return {"new": new, "old": old, "advantages": advantages, "mask": mask}


def policy_oracle(data: dict[str, torch.Tensor]) -> tuple[float, float, float]:
    total, lost, gap, count = 0.0, 0, 0.0, 0
    for row, t in data["mask"].nonzero().tolist():
        ratio = math.exp(float(data["new"][row, t]) - float(data["old"][row, t]))
        advantage = float(data["advantages"][row, t])
        clipped = min(max(ratio, 1 - CLIP), 1 + CLIP)
        total += min(ratio * advantage, clipped * advantage)
        lost += clipped * advantage < ratio * advantage
        gap += abs(ratio - 1)
        count += 1
    return -total / count, lost / count, gap / count


def test_policy_loss_equals_a_plain_loop() -> None:
    data = batch(0)
    result = policy_loss(
        data["new"],
        data["old"],
        data["advantages"],
        data["mask"],
        clip_range=CLIP,
        num_tokens=int(data["mask"].sum()),
    )
    loss, lost, gap = policy_oracle(data)
    assert float(result.loss) == pytest.approx(loss, abs=1e-9)
    assert result.clip_fraction == pytest.approx(lost, abs=1e-6)
    assert result.ratio_gap == pytest.approx(gap, abs=1e-9)


def value_oracle(
    values: torch.Tensor, old: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor
) -> float:
    total = 0.0
    for row, t in mask.nonzero().tolist():
        value, before, target = (float(x[row, t]) for x in (values, old, returns))
        moved = before + min(max(value - before, -CLIP), CLIP)
        total += 0.5 * max((value - target) ** 2, (moved - target) ** 2)
    return total / int(mask.sum())


def test_value_loss_equals_a_plain_loop() -> None:
    data = batch(1)
    values, old, returns, mask = data["new"], data["old"], data["advantages"], data["mask"]
    count = int(mask.sum())
    result = value_loss(values, old, returns, mask, clip_range=CLIP, num_tokens=count)
    assert float(result.loss) == pytest.approx(value_oracle(values, old, returns, mask), abs=1e-9)
    plain = value_loss(values, old, returns, mask, clip_range=None, num_tokens=count)
    errors = [(float(values[r, t]) - float(returns[r, t])) ** 2 for r, t in mask.nonzero().tolist()]
    assert float(plain.loss) == pytest.approx(0.5 * sum(errors) / count)


@pytest.mark.parametrize("which", ["policy", "value"])
def test_gradients_equal_finite_differences_and_vanish_where_masked(which: str) -> None:
    data = batch(2)
    mask, count = data["mask"], int(data["mask"].sum())

    def loss_of(x: torch.Tensor) -> torch.Tensor:
        if which == "policy":
            return policy_loss(
                x, data["old"], data["advantages"], mask, clip_range=CLIP, num_tokens=count
            ).loss
        return value_loss(
            x, data["old"], data["advantages"], mask, clip_range=CLIP, num_tokens=count
        ).loss

    x = data["new"].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of(x), x)
    assert torch.all(gradient[~mask] == 0)
    for row, t in mask.nonzero().tolist():
        step = torch.zeros_like(x)
        step[row, t] = 1e-6
        numeric = float(loss_of(data["new"] + step) - loss_of(data["new"] - step)) / 2e-6
        assert float(gradient[row, t]) == pytest.approx(numeric, abs=1e-6)


@pytest.mark.parametrize("max_rows", [1, 2, 4, 6])
def test_loss_and_gradient_do_not_depend_on_how_a_minibatch_is_cut(max_rows: int) -> None:
    data = batch(3)
    count = int(data["mask"].sum())
    whole = data["new"].clone().requires_grad_()
    full = policy_loss(
        whole, data["old"], data["advantages"], data["mask"], clip_range=CLIP, num_tokens=count
    )
    torch.autograd.backward(full.loss)
    parts, total, clip_fraction, kl = data["new"].clone().requires_grad_(), 0.0, 0.0, 0.0
    for rows in length_sorted_groups(data["mask"].sum(1).numpy(), max_rows=max_rows):
        result = policy_loss(
            parts[rows],
            data["old"][rows],
            data["advantages"][rows],
            data["mask"][rows],
            clip_range=CLIP,
            num_tokens=count,
        )
        torch.autograd.backward(result.loss)
        total += float(result.loss.detach())
        clip_fraction += result.clip_fraction
        kl += result.approximate_kl
    assert total == pytest.approx(float(full.loss.detach()))
    assert clip_fraction == pytest.approx(full.clip_fraction)
    assert kl == pytest.approx(full.approximate_kl)
    assert whole.grad is not None
    assert parts.grad is not None
    assert torch.allclose(whole.grad, parts.grad, atol=1e-12)


def test_the_first_pass_has_ratio_one() -> None:
    data = batch(4)
    count = int(data["mask"].sum())
    result = policy_loss(
        data["new"],
        data["new"],
        data["advantages"],
        data["mask"],
        clip_range=CLIP,
        num_tokens=count,
    )
    assert result.clip_fraction == 0
    assert result.approximate_kl == 0
    assert result.ratio_gap == 0
    assert float(result.loss) == pytest.approx(-float(data["advantages"][data["mask"]].mean()))


def test_importance_weights_equal_a_plain_loop() -> None:
    data = batch(5)
    weights = importance_weights(data["new"], data["old"], data["mask"], cap=1.5)
    for row, t in data["mask"].nonzero().tolist():
        ratio = math.exp(float(data["new"][row, t]) - float(data["old"][row, t]))
        assert float(weights[row, t]) == pytest.approx(min(ratio, 1.5))
    assert torch.all(weights[~data["mask"]] == 0)
    kept = weights[data["mask"]]
    assert float(kept.max()) == 1.5
    assert float(kept.min()) < 1.0


def test_a_weighted_advantage_is_a_weighted_objective() -> None:
    data = batch(6)
    mask, count = data["mask"], int(data["mask"].sum())
    weights = importance_weights(data["new"], data["old"], mask, cap=2.0)
    result = policy_loss(
        data["new"],
        data["old"],
        data["advantages"] * weights,
        mask,
        clip_range=CLIP,
        num_tokens=count,
    )
    total = 0.0
    for row, t in mask.nonzero().tolist():
        ratio = math.exp(float(data["new"][row, t]) - float(data["old"][row, t]))
        advantage = float(data["advantages"][row, t])
        clipped = min(max(ratio, 1 - CLIP), 1 + CLIP)
        total += float(weights[row, t]) * min(ratio * advantage, clipped * advantage)
    assert float(result.loss) == pytest.approx(-total / count)


def test_importance_weights_move_a_mean_to_the_trainers_distribution() -> None:
    generator = torch.Generator().manual_seed(0)
    engine, trainer = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.4, 0.4, 0.2])
    values = torch.tensor([1.0, 5.0, -2.0])
    drawn = torch.multinomial(engine, 200_000, replacement=True, generator=generator)[None]
    mask = torch.ones_like(drawn, dtype=torch.bool)
    weights = importance_weights(trainer.log()[drawn], engine.log()[drawn], mask, cap=2.0)
    expected = float((trainer * values).sum())
    assert float((weights * values[drawn]).mean()) == pytest.approx(expected, abs=0.03)
    assert float(values[drawn].mean()) != pytest.approx(expected, abs=0.3)


def test_token_logprobs_are_those_at_the_temperature() -> None:
    logits, tokens = torch.randn(4, 7), torch.tensor([0, 6, 3, 3])
    result = token_logprobs(logits, tokens, temperature=0.7)
    for row, token in enumerate(tokens.tolist()):
        weights = [math.exp(float(x) / 0.7) for x in logits[row]]
        assert float(result[row]) == pytest.approx(
            math.log(weights[token] / sum(weights)), abs=1e-5
        )


def test_unequal_shapes_are_refused() -> None:
    with pytest.raises(ShapeError, match="mask_BT"):
        value_loss(
            torch.zeros(2, 3),
            torch.zeros(2, 3),
            torch.zeros(2, 3),
            torch.ones(2, 4).bool(),
            clip_range=None,
            num_tokens=1,
        )
