"""Pushed weights on their way into a vLLM engine: loaded, and compared where they can be read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from moss.errors import WeightSyncError
from moss.vllm_reload import ReloadPlan, plan_reload

if TYPE_CHECKING:
    from vllm.v1.worker.worker_base import WorkerBase


class WeightReceiver:
    """Loads pushed weights inside the engine's worker."""

    def __init__(self) -> None:
        self._plan: ReloadPlan | None = None
        self._is_planned = False

    @property
    def repeats_copies(self) -> bool:
        """Whether the last push went by a plan instead of vLLM's own reload."""
        return self._plan is not None

    def receive(self, worker: WorkerBase, weights: dict[str, Tensor], version: int) -> int:
        """Load weights; returns how many tensors were compared after.

        The CPU kernels keep packed copies of most matrices; embeddings and norms stay readable, and
        every optimizer step moves them.

        Raises:
            WeightSyncError: a tensor holds other values than were pushed, or none can be read.
        """
        runner = worker.model_runner
        model = runner.get_model()
        if not self._is_planned:
            self._plan, self._is_planned = plan_reload(model, weights), True
        if self._plan is None:
            runner.reload_weights(weights_iterator=iter(weights.items()))
            _repack_tied_head(model)
        else:
            self._plan.load(weights)
            runner.reset_encoder_cache()
            runner.reset_mm_cache()
        return _compare(model, weights, version)


def _compare(model: nn.Module, weights: Mapping[str, Tensor], version: int) -> int:
    """How many tensors the model holds in plain form, and as they were pushed."""
    compared = 0
    for name, parameter in model.named_parameters():
        pushed = weights.get(name)
        if pushed is None or parameter.numel() < pushed.numel():
            continue
        loaded = parameter.data[: len(pushed)].cpu()
        if not torch.equal(loaded, pushed.to(loaded.dtype)):
            raise WeightSyncError(
                f"vLLM holds other values than weights version {version} in {name} after loading"
            )
        compared += 1
    if not compared:
        raise WeightSyncError(f"no tensor of weights version {version} could be read back")
    return compared


def _repack_tied_head(model: nn.Module) -> None:
    """`reload_weights` repacks the layers that a checkpoint names. A tied LM head is not named, so
    its packed copy would stay the one of the first weights for ever."""
    head = getattr(model, "lm_head", None)
    repack = getattr(getattr(head, "quant_method", None), "process_weights_after_loading", None)
    if callable(repack):
        repack(head)
