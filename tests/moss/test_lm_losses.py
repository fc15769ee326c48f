"""Masked next-token loss against a plain loop."""

import math

import pytest
import torch

from moss.config.model import ModelConfig
from moss.errors import ShapeError
from moss.lm_losses import masked_lm_loss_sum, num_targets
from moss.models import build_policy

SHAPE = ModelConfig(hidden_size=16, num_layers=2, num_heads=2, intermediate_size=32)


@pytest.fixture(scope="module")
def policy() -> torch.nn.Module:
    model: torch.nn.Module = build_policy(
        SHAPE.model_copy(update={"initializer_std": 0.5}),
        vocab_size=24,
        pad_id=0,
        eos_id=1,
        seed=5,
    )
    return model


def plain_loss(policy: torch.nn.Module, rows: list[list[int]], masks: list[list[int]]) -> float:
    """-log p of each masked token, one row at a time, no padding, softmax by hand."""
    total = 0.0
    for row, mask in zip(rows, masks, strict=True):
        logits = policy(input_ids=torch.tensor([row])).logits[0].tolist()
        for position in range(1, len(row)):
            if mask[position]:
                scores = logits[position - 1]
                normaliser = math.log(sum(math.exp(score) for score in scores))
                total += normaliser - scores[row[position]]
    return total


ROWS = [[2, 3, 4, 5, 6, 7], [8, 9, 10], [11, 12, 13, 14]]
MASKS = [[1, 0, 1, 1, 0, 1], [0, 0, 1], [0, 1, 0, 1]]


def padded(pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    ids_BT = torch.full((3, 9), pad)
    mask_BT = torch.zeros((3, 9), dtype=torch.int64)
    for index, (row, mask) in enumerate(zip(ROWS, MASKS, strict=True)):
        ids_BT[index, : len(row)] = torch.tensor(row)
        mask_BT[index, : len(row)] = torch.tensor(mask)
    return ids_BT, mask_BT


def test_gapped_masks_and_padding_give_the_plain_loop(policy: torch.nn.Module) -> None:
    ids_BT, mask_BT = padded(0)
    loss = masked_lm_loss_sum(policy, ids_BT, mask_BT)
    assert float(loss.detach()) == pytest.approx(plain_loss(policy, ROWS, MASKS), rel=1e-5)
    assert num_targets(mask_BT) == 6


def test_what_stands_in_padding_moves_neither_loss_nor_gradient(policy: torch.nn.Module) -> None:
    gradients = []
    for pad in (0, 23):
        policy.zero_grad()
        masked_lm_loss_sum(policy, *padded(pad)).backward()  # type: ignore[no-untyped-call]
        gradients.append([p.grad.clone() for p in policy.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_no_target_gives_zero_and_no_gradient(policy: torch.nn.Module) -> None:
    policy.zero_grad()
    ids_BT, mask_BT = padded(0)
    loss = masked_lm_loss_sum(policy, ids_BT, torch.zeros_like(mask_BT))
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == 0.0


def test_shapes_that_differ_are_refused(policy: torch.nn.Module) -> None:
    with pytest.raises(ShapeError, match=r"\(3, 9\).*\(3, 4\)"):
        masked_lm_loss_sum(policy, padded(0)[0], torch.ones(3, 4))
