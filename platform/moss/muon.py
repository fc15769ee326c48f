"""Muon for hidden matrices with AdamW for everything else, as one optimizer.

Muon (Jordan et al. 2024) replaces the update of a matrix by its nearest orthogonal matrix. Trained
from nothing, the `tiny` model learns to copy spans exactly after about a third of the tokens that
AdamW needs, which is what makes tool calls right within minutes. Embeddings, the output head and
vectors stay with AdamW, as its authors advise.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.optimizer import StateDict


class ClippedMuon(torch.optim.Optimizer):
    """Muon and AdamW over one model; clips by global norm and skips a step that is not finite.

    Only for unsharded fp32 parameters: a shard of a matrix has no orthogonal neighbor.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        learning_rate: float,
        muon_ratio: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        max_grad_norm: float,
    ) -> None:
        """Split the trainable parameters of a model.

        Args:
            learning_rate: AdamW's rate.
            muon_ratio: Muon's rate over AdamW's; each group keeps it as `lr_scale`.
        """
        matrices, others, vectors = _split(model)
        groups: list[dict[str, object]] = [
            {"params": matrices, "lr_scale": muon_ratio, "muon": True},
            {"params": others, "lr_scale": 1.0, "muon": False, "weight_decay": weight_decay},
            {"params": vectors, "lr_scale": 1.0, "muon": False, "weight_decay": 0.0},
        ]
        super().__init__([group for group in groups if group["params"]], {"lr": learning_rate})
        self.max_grad_norm = max_grad_norm
        self.grad_norm = 0.0
        self._halves: dict[bool, torch.optim.Optimizer] = {
            True: torch.optim.Muon(matrices, lr=learning_rate, weight_decay=weight_decay),
            False: torch.optim.AdamW([*others, *vectors], lr=learning_rate, betas=betas, eps=eps),
        }
        for muon, part in self._halves.items():
            defaults = {
                key: value for key, value in part.param_groups[0].items() if key != "params"
            }
            for group in self.param_groups:
                if group["muon"] == muon:
                    group.update({key: group.get(key, value) for key, value in defaults.items()})
        self._share()

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Restore both halves."""
        super().load_state_dict(state_dict)
        self._share()

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        """Clip, then update both halves; leave everything alone when the norm is not finite."""
        assert closure is None, "DeepSpeed passes no closure"
        params = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.clip_grad_norm_(params, self.max_grad_norm, foreach=True)
        self.grad_norm = float(norm)
        if torch.isfinite(norm):
            for part in self._halves.values():
                part.step()

    def _share(self) -> None:
        """Let both halves work on this optimizer's groups and state."""
        for muon, part in self._halves.items():
            part.param_groups = [group for group in self.param_groups if group["muon"] == muon]
            part.state = self.state


def _split(model: nn.Module) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Hidden matrices, embeddings and heads, vectors; only what is trained."""
    outer = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        for parameter in module.parameters()
    }
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    vectors: list[Tensor] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.ndim < 2:
            vectors.append(parameter)
        elif id(parameter) in outer or "head" in name or parameter.shape[0] == 1:
            others.append(parameter)
        else:
            matrices.append(parameter)
    return matrices, others, vectors
