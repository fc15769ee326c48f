"""AdamW that clips for itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable


class ClippedAdamW(torch.optim.AdamW):
    """AdamW that clips by global norm and leaves everything alone when the norm is not finite.

    Only for unsharded parameters; ZeRO's own optimizers do the same on their shards.
    """

    def __init__(
        self, params: Iterable[dict[str, object]], *, max_grad_norm: float, **options: object
    ) -> None:
        super().__init__(params, **options)  # type: ignore[arg-type]
        self.max_grad_norm = max_grad_norm
        self.grad_norm = 0.0

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        """Clip, then update; see the class."""
        assert closure is None, "DeepSpeed passes no closure"
        params = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.clip_grad_norm_(params, self.max_grad_norm, foreach=True)
        self.grad_norm = float(norm)
        if torch.isfinite(norm):
            super().step()
