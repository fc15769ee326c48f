"""One PPO update of one model: minibatches, micro-batches, learning rate, reports.

The same loop trains policy and critic; they differ in the loss of a part of a minibatch. All ranks
of a role call each method together, with the same arguments. Each computes its rows of a minibatch,
and all see the same sums, so they decide alike; up to rounding nothing depends on their number.

Shapes: `B` rollouts, `T` tokens (prompt, response, right padding).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from moss.checkpoints import full_disk_as_storage_error
from moss.config.optimization import OptimizerConfig
from moss.config.ppo import PPOConfig
from moss.config.ppo_actors import TrainedActorConfig
from moss.engine import TrainingEngine
from moss.errors import ConfigError, DataError, StorageError
from moss.experience import UpdateReport
from moss.forward import evaluate_groups
from moss.part_losses import PartLoss
from moss.rank_rows import pick_experience, rank_groups
from moss.rollouts import Experience, Floats, Ints, RolloutBatch

_PROGRESS_FILE: Final = "learner.json"


class Learner:
    """A model being trained by PPO, with its optimizer and its place in the schedule."""

    def __init__(
        self,
        model: nn.Module,
        config: PPOConfig,
        actor: TrainedActorConfig,
        *,
        peak_learning_rate: float,
        num_steps: int,
    ) -> None:
        """Take over a model; `num_steps` optimizer steps make up the whole run."""
        self._config, self._num_steps = config, num_steps
        self._peak = peak_learning_rate
        self._layout: dict[str, int | str] = {
            "num_ranks": actor.num_ranks,
            "zero_stage": actor.zero_stage,
            "precision": actor.precision,
        }
        self._engine = TrainingEngine(
            model,
            OptimizerConfig(
                learning_rate=peak_learning_rate,
                weight_decay=0.0,
                max_grad_norm=config.max_grad_norm,
            ),
            actor.parallel,
        )
        self._steps_done = 0

    def update(
        self, experience: Experience, minibatches: Sequence[Sequence[int]], part_loss: PartLoss
    ) -> UpdateReport:
        """One optimizer step per minibatch, in order, while the KL stays within its bound.

        A minibatch that shows the bound passed is not learned from, nor is any after it; for the
        schedule they count as done.

        Args:
            minibatches: row indices of each.
        Raises:
            DataError: the experience's logprobs are not those of the present weights.
        """
        taken: list[npt.NDArray[np.float64]] = []
        num_left_out = 0
        for number, rows in enumerate(minibatches):
            minibatch = experience.rows(rows)
            measured = self._accumulate(minibatch, part_loss)
            step_number = self._steps_done + number
            rate = self._peak * self._config.warmup_factor(step_number, self._num_steps)
            _, _, approximate_kl, ratio_gap = (float(value) for value in measured)
            if number == 0:
                first_ratio_gap = self._check_first_ratio(ratio_gap)
            if self._passes_kl_bound(approximate_kl):
                self._drop_gradients(minibatch, part_loss)
                num_left_out = len(minibatches) - number
                break
            step = self._engine.optim_step(rate)
            if not step.skipped:
                taken.append(np.append(measured, step.grad_norm))
        self._steps_done += len(minibatches)
        means = sum(taken, np.zeros(5)) / len(taken) if taken else np.full(5, np.nan)
        loss, clip_fraction, mean_kl, _, gradient_norm = (float(mean) for mean in means)
        return UpdateReport(
            loss=loss,
            clip_fraction=clip_fraction,
            approximate_kl=mean_kl,
            gradient_norm=gradient_norm,
            learning_rate=rate,
            num_skipped=self._engine.num_skipped,
            first_ratio_gap=first_ratio_gap,
            num_left_out=num_left_out,
        )

    @property
    def rank(self) -> int:
        """This process's place among the ranks."""
        return self._engine.rank

    def evaluate(self, compute: Callable[[nn.Module], Tensor]) -> Tensor:
        """Run a computation on the model without gradients."""
        return self._engine.forward(compute)

    def evaluate_tokens(
        self, compute: Callable[[Tensor, Tensor], Tensor], batch: RolloutBatch
    ) -> Floats:
        """A (B, T) result of a whole batch, its rows split over the ranks; on every rank.

        Args:
            compute: tokens (B, T) and mask (B, T) of some rows to the model's result (B, T).
        """
        found = evaluate_groups(
            lambda tokens_BT, mask_BT: self.evaluate(lambda _: compute(tokens_BT, mask_BT)),
            batch,
            self._groups(batch.lengths_B),
            device=self._engine.device,
        )
        return self._engine.sum_arrays(found)

    def weights(self, *, copy: bool = True) -> dict[str, Tensor]:
        """The model's weights, fp32 on CPU, on rank 0; nothing on the others, which take part.

        Args:
            copy: see `TrainingEngine.full_state_dict`.
        """
        return self._engine.full_state_dict(keep=not self.rank, copy=copy)

    def save(self, folder: str) -> None:
        """Write weights, optimizer, random state and place in the schedule, each rank its part.

        Raises:
            StorageError: the ranks do not see one folder, or its disk is full.
        """
        progress = Path(folder) / _PROGRESS_FILE
        with full_disk_as_storage_error(f"the training state in {folder}"):
            progress.parent.mkdir(parents=True, exist_ok=True)
            self._engine.save(folder)
            if not self.rank:
                record = json.dumps(self._layout | {"steps_done": self._steps_done})
                progress.write_text(record + "\n")
        self._engine.sum_over_workers(0.0)  # rank 0 has written
        if not progress.is_file():
            raise StorageError(
                f"rank {self.rank} wrote its part of a training state to {folder}, where it does "
                "not see rank 0's; give the run a workspace that all nodes share"
            )

    def load(self, folder: str) -> None:
        """Continue exactly where `save` stood.

        Raises:
            ConfigError: the state was written by other ranks or with other shards.
        """
        stored = json.loads((Path(folder) / _PROGRESS_FILE).read_text())
        steps_done = stored.pop("steps_done")
        if stored != self._layout:
            raise ConfigError(
                f"the training state {folder} was written with {stored}, this run has "
                f"{self._layout}; a run goes on only with the ranks and shards it had"
            )
        self._engine.load(folder)
        self._steps_done = steps_done

    def close(self) -> None:
        """Give the memory of optimizer and shards back."""
        self._engine.close()

    def _check_first_ratio(self, gap: float) -> float:
        bound = self._config.max_first_ratio_gap
        if gap > bound:
            raise DataError(
                "before the first step of an update the ratio of new to old probability is "
                f"{gap:.3g} away from 1 on average, more than ppo.max_first_ratio_gap={bound:g}: "
                "the logprobs were computed by other weights or at another temperature. Compute "
                "them with the weights that are updated; raise the bound only where kernels of low "
                "precision explain it"
            )
        return gap

    def _passes_kl_bound(self, approximate_kl: float) -> bool:
        bound = self._config.max_update_kl
        return bound is not None and approximate_kl > bound

    def _groups(self, lengths_B: Ints) -> list[Ints]:
        """Rows of this rank's micro-batches; equally many on every rank, some may be empty."""
        return rank_groups(
            lengths_B,
            rank=self._engine.rank,
            num_ranks=self._engine.num_workers,
            max_rows=self._config.micro_batch_size,
        )

    def _accumulate(self, minibatch: Experience, part_loss: PartLoss) -> npt.NDArray[np.float64]:
        """Add a minibatch's gradient; its loss and the other fields of `LossPart`, in order."""
        num_tokens = minibatch.rollouts.num_response_tokens
        totals = np.zeros(4)
        for rows in self._groups(minibatch.rollouts.lengths_B):
            totals += self._accumulate_part(pick_experience(minibatch, rows), part_loss, num_tokens)
        return np.array(self._engine.sum_over_workers(*totals))

    def _drop_gradients(self, minibatch: Experience, part_loss: PartLoss) -> None:
        """Forget a minibatch's gradient, on all ranks."""
        part = pick_experience(minibatch, self._groups(minibatch.rollouts.lengths_B)[0])
        self._engine.drop_gradients(lambda model: part_loss(model, part, 1).loss)

    def _accumulate_part(
        self, part: Experience, part_loss: PartLoss, num_tokens: int
    ) -> npt.NDArray[np.float64]:
        reports: list[tuple[float, float, float]] = []

        def compute(model: nn.Module) -> Tensor:
            result = part_loss(model, part, num_tokens)
            reports.append((result.clip_fraction, result.approximate_kl, result.ratio_gap))
            return result.loss

        loss = self._engine.forward_backward(compute)
        return np.array([loss, *reports[0]])
