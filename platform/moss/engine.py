"""One DeepSpeed engine behind four verbs: forward_backward, optim_step, save, load.

The engine runs in any process: a Ray Train worker (the process group is up already) or alone (it
makes a group of one). ZeRO 0 to 3 on CPU (gloo) or GPU (NCCL); AdamW is torch's own, so nothing is
compiled. Gradients add up over any number of `forward_backward` calls until `optim_step`.

A loss is a contribution: the caller divides by the weight of the whole batch over all workers, the
engine undoes DeepSpeed's averaging. So the result does not depend on the number of workers or
micro-batches, up to rounding.
"""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed
from torch import Tensor, nn
from torch._C._distributed_c10d import HashStore

from moss.clipped_adam import ClippedAdamW
from moss.config.optimization import OptimizerConfig, ParallelConfig
from moss.errors import ConfigError
from moss.models import ValueModel
from moss.muon import ClippedMuon

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TAG = "engine"


@dataclass(frozen=True, slots=True)
class OptimStep:
    """What one optimizer step did."""

    grad_norm: float
    """Global L2 norm before clipping; not finite when the step was skipped."""
    skipped: bool
    """True when a gradient was not finite: weights and optimizer state are as before."""


class _Computation(nn.Module):
    """Runs a computation on a model inside DeepSpeed's forward, where its hooks are live."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, compute: Callable[[nn.Module], Tensor]) -> Tensor:
        return compute(self.model)


class TrainingEngine:
    """A model with its optimizer; see the module."""

    def __init__(
        self, model: nn.Module, optimizer: OptimizerConfig, parallel: ParallelConfig
    ) -> None:
        """Wrap a model that every worker built with equal weights; its parameters are taken over.

        Raises:
            ConfigError: pipeline stages, which this engine does not run.
        """
        if parallel.pipeline_stages > 1:
            raise ConfigError(
                f"pipeline_stages={parallel.pipeline_stages} is only planned, not run; set 1 and "
                "shard with zero_stage instead"
            )
        os.environ["DS_ACCELERATOR"] = parallel.device
        import deepspeed

        _start_process_group(parallel)
        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        if parallel.gradient_checkpointing:
            _checkpoint_activations(model)
        self.num_skipped = 0
        self._zero_stage = parallel.zero_stage
        self.rank = torch.distributed.get_rank()
        self.num_workers = torch.distributed.get_world_size()
        assert self.num_workers == parallel.num_workers, "all workers join before the engine starts"
        self._optimizer = _build_optimizer(model, optimizer, parallel)
        self._engine, *_ = deepspeed.initialize(
            model=_Computation(model),
            optimizer=self._optimizer,
            config=_deepspeed_config(optimizer, parallel),
        )
        if parallel.zero_stage == 0 and parallel.precision == "bf16":
            # DeepSpeed has taken a step of zero gradients, which Adam's bias correction counts.
            self._optimizer.state.clear()

    @property
    def device(self) -> torch.device:
        """Where inputs belong."""
        return torch.device(self._engine.device)

    def forward_backward(self, compute: Callable[[nn.Module], Tensor]) -> float:
        """Add one micro-batch's gradient.

        Args:
            compute: model to scalar loss, already divided by the weight of the whole batch. Under
                ZeRO-3 it may read weights only by calling submodules.
        Returns: the loss; where it is not finite, neither is any gradient, and the step is skipped.
        """
        loss = self._engine(compute)
        # Through the gradients, so that all workers skip together.
        factor = torch.where(loss.detach().isfinite(), float(self.num_workers), math.nan)
        self._engine.backward(loss * factor.to(loss.dtype), scale_wrt_gas=False)
        return float(loss.detach())

    def drop_gradients(self, compute: Callable[[nn.Module], Tensor]) -> None:
        """Forget the gradients since the last step, on every worker at once.

        DeepSpeed keeps its own sums of sharded and of bf16 gradients and offers no way to clear
        them but a step that it skips; that step is not counted.

        Args:
            compute: what `forward_backward` last took.
        """
        if isinstance(self._optimizer, ClippedAdamW | ClippedMuon):
            self._engine.zero_grad()
            return
        self.forward_backward(lambda model: compute(model) * math.nan)
        self._engine.step()

    def forward(self, compute: Callable[[nn.Module], Tensor]) -> Tensor:
        """Run a computation without gradients, on every worker at once under ZeRO-3."""
        with torch.no_grad():
            result: Tensor = self._engine(compute)
        return result

    def optim_step(self, learning_rate: float) -> OptimStep:
        """Average gradients over workers, clip, update, clear; skip and count non-finite ones."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate * group.get("lr_scale", 1.0)
        self._engine.step()
        if isinstance(self._optimizer, ClippedAdamW | ClippedMuon):
            norm = self._optimizer.grad_norm
        else:
            norm = float(self._engine.get_global_grad_norm())
        skipped = not torch.isfinite(torch.tensor(norm)).item()
        self.num_skipped += skipped
        return OptimStep(norm, skipped)

    def sum_over_workers(self, *values: float) -> list[float]:
        """Each value summed over all workers; every worker must call this."""
        if self.num_workers == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(total)
        return [float(value) for value in total]

    def sum_arrays(self, array: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Element by element over all workers, from arrays of equal shape; all must call this."""
        if self.num_workers == 1:
            return array
        total = torch.from_numpy(array).to(self.device)
        torch.distributed.all_reduce(total)
        summed: npt.NDArray[np.float32] = total.cpu().numpy()
        return summed

    def full_state_dict(self, *, keep: bool = True, copy: bool = True) -> dict[str, Tensor]:
        """The model's weights from all shards, fp32 on CPU; every worker must call this.

        Args:
            keep: False for a worker that only takes part: it holds one parameter at a time, and
                gets nothing.
            copy: False where the weights are read before the next step: what the model itself holds
                on the CPU then stays its own.
        """
        model: nn.Module = self._engine.module.model
        if self._zero_stage < 3:
            values = model.state_dict().items() if keep else ()
            return {name: _to_host(value, copy=copy) for name, value in values}
        import deepspeed

        names = set(model.state_dict())
        state: dict[str, Tensor] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            with deepspeed.zero.GatheredParameters([parameter]):
                if keep and name in names:
                    state[name] = _to_host(parameter)
        if keep:
            buffers = ((name, value) for name, value in model.named_buffers() if name in names)
            state |= {name: _to_host(value) for name, value in buffers}
        return state

    def save(self, folder: str | Path) -> None:
        """Write weights, optimizer state, counters and this worker's random state.

        Every worker must call this with the same folder.
        """
        counters = {"num_skipped": self.num_skipped}
        self._engine.save_checkpoint(
            str(folder), tag=_TAG, client_state=counters, save_latest=False
        )
        torch.save(torch.get_rng_state(), self._random_state_file(folder))

    def load(self, folder: str | Path) -> None:
        """Continue exactly where `save` stood; same model, ZeRO stage and number of workers."""
        _, counters = self._engine.load_checkpoint(str(folder), tag=_TAG)
        self.num_skipped = int(counters["num_skipped"])
        torch.set_rng_state(torch.load(self._random_state_file(folder)))

    def close(self) -> None:
        """Drop hooks and shards so that the memory can be used again."""
        self._engine.destroy()

    def _random_state_file(self, folder: str | Path) -> Path:
        return Path(folder) / f"random-state-{self.rank}.pt"


def _start_process_group(parallel: ParallelConfig) -> None:
    import deepspeed
    import deepspeed.ops

    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    # DeepSpeed compiles its shared-memory collectives (a minute of g++, and a lock file that can
    # outlive a killed build) whenever this table calls them compatible. They serve inference only.
    deepspeed.ops.__compatible_ops__ = {}
    timeout = timedelta(seconds=parallel.collective_timeout_s)
    if not torch.distributed.is_initialized():
        backend = "nccl" if parallel.device == "cuda" else "gloo"
        store = HashStore()
        torch.distributed.init_process_group(
            backend, store=store, rank=0, world_size=1, timeout=timeout
        )
    os.environ.setdefault("LOCAL_RANK", "0")
    deepspeed.init_distributed(auto_mpi_discovery=False, timeout=timeout)


def _checkpoint_activations(model: nn.Module) -> None:
    body: PreTrainedModel = model.body if isinstance(model, ValueModel) else model
    body.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    body.train()


def _build_optimizer(
    model: nn.Module, config: OptimizerConfig, parallel: ParallelConfig
) -> torch.optim.Optimizer:
    betas = (config.beta1, config.beta2)
    if config.name == "muon":
        return ClippedMuon(
            model,
            learning_rate=config.learning_rate,
            muon_ratio=config.muon_ratio,
            betas=betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
            max_grad_norm=config.max_grad_norm,
        )
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups: list[dict[str, object]] = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if parallel.zero_stage == 0 and parallel.precision == "fp32":
        return ClippedAdamW(
            groups,
            max_grad_norm=config.max_grad_norm,
            lr=config.learning_rate,
            betas=betas,
            eps=config.eps,
            fused=True,
        )
    # Every step sets its rate; one that DeepSpeed takes by itself at the start must decay nothing.
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=config.eps, fused=True)


def _deepspeed_config(optimizer: OptimizerConfig, parallel: ParallelConfig) -> dict[str, object]:
    clipped_here = parallel.zero_stage == 0 and parallel.precision == "fp32"
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": 0.0 if clipped_here else optimizer.max_grad_norm,
        "zero_optimization": {"stage": parallel.zero_stage, "overlap_comm": False},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": parallel.precision == "bf16", "check_grad_overflow": True},
        "steps_per_print": None,
    }


def _to_host(value: Tensor, *, copy: bool = True) -> Tensor:
    host = value.detach().to("cpu", copy=copy)
    return host.float() if host.is_floating_point() else host
