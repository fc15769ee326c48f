"""Muon with AdamW: who updates what, resuming, and steps that must not happen."""

import copy

import torch
from torch import nn

from moss.muon import ClippedMuon


class Small(nn.Module):
    """An embedding, a hidden matrix, a vector and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.hidden = nn.Linear(4, 4)
        self.head = nn.Linear(4, 3, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.head(torch.tanh(self.hidden(self.embed(ids))))
        return scores


def build(model: nn.Module) -> ClippedMuon:
    return ClippedMuon(
        model, learning_rate=0.01, muon_ratio=5.0, betas=(0.9, 0.95), eps=1e-8,
        weight_decay=0.0, max_grad_norm=1.0,
    )  # fmt: skip


def train(model: nn.Module, optimizer: ClippedMuon, num_steps: int) -> None:
    for step in range(num_steps):
        ids = torch.arange(7).roll(step)
        model(ids).logsumexp(-1).sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def test_only_hidden_matrices_are_muons() -> None:
    torch.manual_seed(0)
    model = Small()
    optimizer = build(model)
    muon = [p for group in optimizer.param_groups if group["muon"] for p in group["params"]]
    assert [id(p) for p in muon] == [id(model.hidden.weight)]
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 4


def test_the_first_update_of_a_matrix_is_orthogonal() -> None:
    torch.manual_seed(0)
    model = Small()
    before = model.hidden.weight.detach().clone()
    optimizer = build(model)
    for group in optimizer.param_groups:
        group["lr"] = 1.0
    train(model, optimizer, 1)
    singular = torch.linalg.svdvals(model.hidden.weight.detach() - before)
    assert singular.min() > 0.6
    assert singular.max() < 1.3


def test_training_resumed_from_its_state_is_bit_for_bit_the_same() -> None:
    torch.manual_seed(0)
    model = Small()
    optimizer = build(model)
    train(model, optimizer, 3)
    twin = copy.deepcopy(model)
    resumed = build(twin)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(model, optimizer, 3)
    train(twin, resumed, 3)
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    torch.manual_seed(0)
    model = Small()
    optimizer = build(model)
    before = copy.deepcopy(model.state_dict())
    model(torch.arange(7)).sum().backward()
    assert model.hidden.weight.grad is not None
    model.hidden.weight.grad[0, 0] = float("nan")
    optimizer.step()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
