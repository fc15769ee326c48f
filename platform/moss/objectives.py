"""What training optimises: which examples form a step, and the loss of a micro-batch.

An objective is the same on every worker: each plans the whole batch of a step from its number and
takes its own part, so nothing but gradients has to be communicated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from moss.config.optimization import TrainingConfig
from moss.errors import DataError
from moss.lm_losses import masked_lm_loss_sum
from moss.models import PreferenceModel
from moss.packing import SequenceSource, batch_items, pad_right, plan_micro_batches
from moss.preference_loss import preference_loss_sum

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MicroBatchLoss = Callable[[nn.Module, torch.device], Tensor]
"""Sum of the loss over one micro-batch's targets or pairs, in nats; a scalar on the device."""


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One optimizer step, cut into micro-batches."""

    losses: list[list[MicroBatchLoss]]
    """For each worker the loss of each of its micro-batches; equally many for every worker."""
    weight: float
    """Targets or pairs of the whole batch; losses are divided by it."""
    num_tokens: int
    """Tokens of the whole batch, without padding."""


class Objective(Protocol):
    """See the module."""

    num_steps: int

    def plan(self, step: int) -> StepPlan:
        """The batch of a step; the same on every worker and after a resume."""
        ...


class LanguageModelObjective:
    """Next-token prediction on the targets of token sequences."""

    def __init__(
        self, source: SequenceSource, training: TrainingConfig, *, pad_id: int, seed: int
    ) -> None:
        self._source, self._training = source, training
        self._pad_id, self._seed = pad_id, seed
        self._lengths, self._target_counts = source.lengths, source.target_counts
        self.num_steps = _require_steps(training, len(self._lengths), "sequences")

    def plan(self, step: int) -> StepPlan:
        """The batch of a step: each epoch visits every sequence once, in a seeded order."""
        items = batch_items(
            step,
            batch_size=self._training.batch_size,
            num_items=len(self._lengths),
            seed=self._seed,
        )
        lengths = [int(self._lengths[item]) for item in items]
        plan = plan_micro_batches(
            lengths,
            num_workers=self._training.parallel.num_data_workers,
            token_budget=self._training.micro_batch_tokens,
        )
        losses: list[list[MicroBatchLoss]] = [
            [partial(self._loss_sum, [items[i] for i in micro]) for micro in worker]
            for worker in plan
        ]
        weight = float(sum(int(self._target_counts[item]) for item in items))
        if weight == 0:
            raise DataError(f"no token of the {len(items)} sequences of a batch carries loss")
        return StepPlan(losses, weight, sum(lengths))

    def _loss_sum(self, items: list[int], model: nn.Module, device: torch.device) -> Tensor:
        rows = [self._source.sequence(item) for item in items]
        ids_BT, _ = pad_right([ids for ids, _ in rows], self._pad_id)
        mask_BT, _ = pad_right([mask for _, mask in rows], 0)
        return masked_lm_loss_sum(
            cast("PreTrainedModel", model), ids_BT.to(device), mask_BT.to(device)
        )


@dataclass(frozen=True, slots=True)
class ComparedResponses:
    """The responses to one prompt and the judged pairs among them."""

    sequences: list[list[int]]
    """Token ids of prompt and response, one per response."""
    pairs: list[tuple[int, int]]
    """(winner, loser) as indices into `sequences`."""


class PreferenceObjective:
    """Pairwise preference (Eq. 1).

    A batch holds exactly `batch_size` pairs, filled prompt by prompt; the responses of a prompt are
    scored once and stand in all its pairs: six forward passes in place of thirty. A prompt whose
    pairs do not fit goes on in the next batch.
    """

    def __init__(
        self,
        prompts: Sequence[ComparedResponses],
        training: TrainingConfig,
        *,
        pad_id: int,
        seed: int,
    ) -> None:
        self._prompts, self._training, self._pad_id = prompts, training, pad_id
        num_pairs = sum(len(prompt.pairs) for prompt in prompts)
        self.num_steps = _require_steps(training, num_pairs, "judged pairs")
        self._stream = [
            (int(prompt), pair)
            for epoch in range(training.num_epochs)
            for prompt in np.random.default_rng([seed, epoch]).permutation(len(prompts))
            for pair in prompts[prompt].pairs
        ]

    def plan(self, step: int) -> StepPlan:
        """The batch of a step."""
        size = self._training.batch_size
        by_prompt: dict[int, list[tuple[int, int]]] = {}
        for prompt, pair in self._stream[step * size : (step + 1) * size]:
            by_prompt.setdefault(prompt, []).append(pair)
        parts = [_only(self._prompts[prompt], pairs) for prompt, pairs in by_prompt.items()]
        workers = self._training.parallel.num_data_workers
        while len(parts) % workers:
            parts = _split_largest(parts)
        lengths = [_padded_tokens(part) for part in parts]
        plan = plan_micro_batches(
            lengths, num_workers=workers, token_budget=self._training.micro_batch_tokens
        )
        losses: list[list[MicroBatchLoss]] = [
            [partial(self._loss_sum, [parts[i] for i in micro]) for micro in worker]
            for worker in plan
        ]
        num_tokens = sum(len(ids) for part in parts for ids in part.sequences)
        return StepPlan(losses, float(size), num_tokens)

    def _loss_sum(
        self, parts: list[ComparedResponses], model: nn.Module, device: torch.device
    ) -> Tensor:
        sequences: list[list[int]] = []
        winners: list[int] = []
        losers: list[int] = []
        for part in parts:
            winners += [winner + len(sequences) for winner, _ in part.pairs]
            losers += [loser + len(sequences) for _, loser in part.pairs]
            sequences += part.sequences
        ids_BT, mask_BT = pad_right(sequences, self._pad_id)
        scores_B = cast("PreferenceModel", model)(ids_BT.to(device), mask_BT.to(device))
        return preference_loss_sum(
            scores_B, torch.tensor(winners, device=device), torch.tensor(losers, device=device)
        )


def _only(prompt: ComparedResponses, pairs: list[tuple[int, int]]) -> ComparedResponses:
    """A prompt reduced to some of its pairs and the responses they name."""
    used = sorted({index for pair in pairs for index in pair})
    place = {index: at for at, index in enumerate(used)}
    return ComparedResponses(
        [prompt.sequences[index] for index in used],
        [(place[winner], place[loser]) for winner, loser in pairs],
    )


def _split_largest(parts: list[ComparedResponses]) -> list[ComparedResponses]:
    largest = max(parts, key=lambda part: len(part.pairs))
    assert len(largest.pairs) > 1, "batch_size is a multiple of the workers, so pairs suffice"
    half = len(largest.pairs) // 2
    rest = [part for part in parts if part is not largest]
    return [*rest, _only(largest, largest.pairs[:half]), _only(largest, largest.pairs[half:])]


def _padded_tokens(part: ComparedResponses) -> int:
    return len(part.sequences) * max(len(ids) for ids in part.sequences)


def _require_steps(training: TrainingConfig, num_examples: int, what: str) -> int:
    steps = training.num_steps(num_examples)
    if steps == 0:
        raise DataError(
            f"{num_examples} {what} x num_epochs={training.num_epochs} do not fill one batch of "
            f"batch_size={training.batch_size}; give more data or a smaller batch"
        )
    return steps
