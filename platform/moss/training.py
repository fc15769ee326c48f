"""The training loop of one worker, shared by pre-training, SFT, preference model and PAT.

It needs no Ray: it runs in a Ray Train worker (`actors.train_worker`) or alone in a test. Given the
same task, seed, number of workers and threads, it gives the same losses bit for bit, also when it
was killed and resumed from a training state.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

import torch
import torch.distributed
from torch import Tensor, nn

from moss.checkpoints import fetch_training_state, load_latest_training_state, save_training_state
from moss.config.optimization import OptimizerConfig, TrainingConfig
from moss.config.unfreezing import UnfreezingConfig
from moss.engine import TrainingEngine
from moss.errors import DataError
from moss.objectives import MicroBatchLoss, Objective
from moss.unfreezing import Phase, freeze_for_phase, plan_phases

T = TypeVar("T")

MAX_SKIPPED_IN_A_ROW = 20
"""Steps without a finite gradient after which training has diverged."""


class TrainingTask(Protocol):
    """What a stage gives the loop; small and picklable, it names data and does not hold it."""

    @property
    def training(self) -> TrainingConfig:
        """Batches, optimizer, workers."""
        ...

    @property
    def unfreezing(self) -> UnfreezingConfig | None:
        """Phases in which only some parameters move."""
        ...

    def build_model(self) -> nn.Module:
        """The model before training, equal on every worker."""
        ...

    def build_objective(self) -> Objective:
        """Batches and loss."""
        ...

    def export(self, model: nn.Module) -> dict[str, float]:
        """Write the trained model (rank 0 only) and return final metrics."""
        ...


@dataclass(frozen=True, slots=True)
class StepReport:
    """One optimizer step, over all workers."""

    step: int
    """Steps done, this one included."""
    num_steps: int
    loss: float
    """Mean over the batch's targets or pairs, nats."""
    learning_rate: float
    grad_norm: float
    """Before clipping; not finite when the step was skipped."""
    num_tokens: int
    """Tokens of the batch, without padding."""
    seconds: float
    num_skipped: int
    """Steps without a finite gradient so far."""


def run_training(
    task: TrainingTask, state_folder: str, on_step: Callable[[StepReport], None]
) -> dict[str, float]:
    """Train from the last whole training state, or from the start, and export.

    Args:
        state_folder: where training states of this run lie.
        on_step: called on every worker after every step.
    Returns: the export's metrics on rank 0, nothing elsewhere.
    Raises:
        DataError: gradients were not finite for `MAX_SKIPPED_IN_A_ROW` steps.
    """
    loop = _Loop(task, state_folder, on_step)
    weights: dict[str, Tensor] | None = None
    for phase in plan_phases(task.unfreezing, loop.objective.num_steps):
        if loop.resumed is None or loop.resumed[0] <= phase.end:
            weights = loop.run_phase(phase, weights)
    assert weights is not None, "a plan has a phase that ends at the last step"
    if loop.rank:
        return {}
    model = task.build_model()
    model.load_state_dict(weights)
    return task.export(model.eval())


class _Loop:
    def __init__(
        self, task: TrainingTask, state_folder: str, on_step: Callable[[StepReport], None]
    ) -> None:
        self.task, self.training = task, task.training
        self.state_folder, self.on_step = state_folder, on_step
        self.objective = task.build_objective()
        distributed = torch.distributed.is_initialized()
        self.rank = torch.distributed.get_rank() if distributed else 0
        self.num_workers = torch.distributed.get_world_size() if distributed else 1
        self.resumed = self._agree(load_latest_training_state(state_folder))
        self.skipped_in_a_row = 0

    def run_phase(self, phase: Phase, weights: dict[str, Tensor] | None) -> dict[str, Tensor]:
        """Train through one phase, or what is left of it; returns the full weights."""
        model = self.task.build_model()
        if weights is not None:
            model.load_state_dict(weights)
        optimizer = self.training.optimizer
        unfreezing = self.task.unfreezing
        if unfreezing is not None:
            freeze_for_phase(
                model,
                phase,
                num_edge_layers=unfreezing.num_edge_layers,
                num_base_rows=unfreezing.num_base_rows,
            )
            if phase.trainable == "new_rows":
                optimizer = optimizer.model_copy(update={"weight_decay": 0.0})
        engine = TrainingEngine(model, optimizer, self.training.parallel)
        start = phase.start
        if self.resumed is not None:
            start, path = self.resumed
            self.resumed = None
            with tempfile.TemporaryDirectory() as folder:
                engine.load(fetch_training_state(path, folder))
        for step in range(start, phase.end):
            self._step(engine, step, self._learning_rate(optimizer, phase, step))
            if (step + 1) % self.training.checkpoint_every_steps == 0 or step + 1 == phase.end:
                self._save(engine, step + 1)
        state = engine.full_state_dict()
        engine.close()
        return state

    def _step(self, engine: TrainingEngine, step: int, learning_rate: float) -> None:
        started = time.perf_counter()
        plan = self.objective.plan(step)
        loss = 0.0
        for loss_sum in plan.losses[self.rank]:
            loss += engine.forward_backward(partial(_share, loss_sum, engine.device, plan.weight))
        outcome = engine.optim_step(learning_rate)
        (loss,) = engine.sum_over_workers(loss)
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if outcome.skipped else 0
        if self.skipped_in_a_row == MAX_SKIPPED_IN_A_ROW:
            raise DataError(
                f"gradients were not finite in {MAX_SKIPPED_IN_A_ROW} steps in a row, up to step "
                f"{step + 1}; lower learning_rate={self.training.optimizer.learning_rate} or look "
                "for damaged rows in the data"
            )
        self.on_step(
            StepReport(
                step=step + 1,
                num_steps=self.objective.num_steps,
                loss=loss,
                learning_rate=learning_rate,
                grad_norm=outcome.grad_norm,
                num_tokens=plan.num_tokens,
                seconds=time.perf_counter() - started,
                num_skipped=engine.num_skipped,
            )
        )

    def _learning_rate(self, optimizer: OptimizerConfig, phase: Phase, step: int) -> float:
        """The run's schedule; a later phase ramps up again, its optimizer state being new."""
        rate = optimizer.learning_rate_at(step, self.objective.num_steps)
        ramp = round(optimizer.warmup_ratio * (phase.end - phase.start)) if phase.start else 0
        return rate * min(1.0, (step - phase.start + 1) / max(1, ramp))

    def _save(self, engine: TrainingEngine, step: int) -> None:
        """Every worker writes its part into the folder that rank 0 builds and publishes."""
        keep = self.training.keep_checkpoints
        if self.rank == 0:
            save_training_state(self.state_folder, step, lambda f: self._write(engine, f), keep)
        else:
            self._write(engine, None)
        if self.num_workers > 1:
            torch.distributed.barrier()

    def _write(self, engine: TrainingEngine, folder: str | None) -> None:
        agreed = self._agree(folder)
        assert agreed is not None, "rank 0 names the folder"
        engine.save(agreed)
        if self.num_workers > 1:
            torch.distributed.barrier()

    def _agree(self, value: T) -> T:
        """Rank 0's value on every worker."""
        if self.num_workers == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]


def _share(loss: MicroBatchLoss, device: torch.device, weight: float, model: nn.Module) -> Tensor:
    """What a micro-batch adds to the mean loss of the whole batch."""
    return loss(model, device) / weight
