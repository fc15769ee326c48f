"""The responses of each iteration, asked of the rollout actors; in time, or an iteration ahead.

In time, they arrive in parts, in the order in which they end, so that short ones are scored while
long ones are written. Ahead (`rollout.one_step_off`): while iteration k is scored and learned from,
the responses of k + 1 are sampled with the weights that k began with. Their version stands in each
of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from actors.group import ActorGroup
from actors.pending import Pending
from actors.rollout import Part, RolloutActor
from actors.weight_sync import WeightSync
from moss.config.ppo import TrainPPOConfig
from moss.ppo_inputs import PPOInputs
from moss.rollouts import Ints, Rollout, RolloutBatch
from moss.sampling import in_order
from moss.staleness import check_staleness
from moss.tool_rollouts import tool_call_metrics

TakePart = Callable[[Ints, RolloutBatch], None]
"""Rows of an iteration, and their responses."""


@dataclass(frozen=True, slots=True)
class Responses:
    """What the rollout actors answered to the prompts of one iteration."""

    batch: RolloutBatch
    metrics: dict[str, float]
    """By metric name, of runs with tools in rollouts."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the rollout actors were asked for."""

    rows: list[list[int]]
    """Of the iteration, by rank."""
    parts: list[Pending[dict[int, Rollout]]]
    """Responses by their number among a rank's rows. An actor that has ended one part goes on with
    the next by itself."""

    def wait(
        self, part: int, timeout_s: float, *, beside: Sequence[Pending[object]] = ()
    ) -> dict[int, Rollout]:
        """A part's responses by row of the iteration."""
        answers = self.parts[part].wait(timeout_s, beside=beside)
        pairs = zip(self.rows, answers, strict=True)
        return {rows[number]: answer[number] for rows, answer in pairs for number in sorted(answer)}


class Generation:
    """Asks for responses; all it holds is what was made ahead."""

    def __init__(
        self,
        rollouts: ActorGroup[RolloutActor],
        weights: WeightSync,
        inputs: PPOInputs,
        config: TrainPPOConfig,
        *,
        ahead: Responses | None = None,
    ) -> None:
        """Args: `ahead`, the responses of the next iteration, where a run goes on with them."""
        self._rollouts, self._weights, self._inputs = rollouts, weights, inputs
        self._ppo, self._config = config.ppo, config.rollout
        self._timeout_s = config.timeouts.generate_s
        self._num_iterations = inputs.num_iterations(config)
        self._under_way: _Asked | None = None
        self.ahead = ahead
        """Responses of the next iteration; None unless they were made already."""

    def take(
        self, iteration: int, take_part: TakePart, *, beside: Sequence[Pending[object]] = ()
    ) -> Responses:
        """The responses of an iteration, counted from 0: those made ahead, or made now.

        Engines that sleep do so once all are there, or the next iteration's are begun ahead.

        Args:
            take_part: called with each part as soon as it is there, with the last one after that.
            beside: see `Pending.wait`; may grow meanwhile.
        Raises:
            WeightSyncError: they are of other weights than the config allows, or rollout actors
                hold others than the iteration's.
        """
        taken, self.ahead = self.ahead, None
        if taken is not None:
            self._check(taken.batch, iteration)
            self._begin_next(iteration)
            take_part(np.arange(taken.batch.num_rollouts), taken.batch)
            return taken
        asked = self._ask(iteration, version=iteration)
        rollouts: dict[int, Rollout] = {}
        untaken: list[tuple[Ints, RolloutBatch]] = []
        for part in range(len(asked.parts)):
            found = asked.wait(part, self._timeout_s, beside=beside)
            rollouts |= found
            batch = self._batch(list(found.values()))
            self._check(batch, iteration)
            untaken.append((np.array(list(found)), batch))
            is_last = part + 1 == len(asked.parts)
            if is_last:
                self._weights.rest()
                self._begin_next(iteration)
            # Until an engine sleeps there is no room beside it.
            while untaken and (is_last or not self._config.sleep_level):
                take_part(*untaken.pop(0))
        return self._responses(rollouts)

    def finish_next(self) -> None:
        """Wait for what was begun ahead: no weights may be replaced before."""
        if self._under_way is not None:
            self.ahead = self._responses(self._under_way.wait(0, self._timeout_s))
            self._under_way = None

    def _begin_next(self, iteration: int) -> None:
        """Start the next iteration's responses, if they are made ahead and it is not the last."""
        if self._config.one_step_off and iteration + 1 < self._num_iterations:
            self._under_way = self._ask(iteration + 1, version=iteration)

    def _ask(self, iteration: int, *, version: int) -> _Asked:
        self._weights.check_current(version)
        requests = self._inputs.prompts.batch(
            iteration,
            self._ppo.num_prompts,
            responses_per_prompt=self._ppo.responses_per_prompt,
        )
        rows = split_rows(len(requests), self._rollouts.num_ranks)
        shards = [[requests[row] for row in of_rank] for of_rank in rows]
        num_parts = self._num_parts(len(shards[0]))
        sampling, stop_ids = self._config.sampling, self._inputs.stop_ids
        parts = [
            self._rollouts.map(
                RolloutActor.generate, shards, sampling, stop_ids, version, Part(part, num_parts)
            )
            for part in range(num_parts)
        ]
        return _Asked(rows, parts)

    def _num_parts(self, num_rows: int) -> int:
        """Of `num_rows` responses of one actor."""
        if self._config.one_step_off:
            return 1
        return min(self._config.num_parts, -(-num_rows // self._ppo.micro_batch_size))

    def _check(self, batch: RolloutBatch, iteration: int) -> None:
        check_staleness(batch, policy_version=iteration, most=int(self._config.one_step_off))

    def _batch(self, rollouts: Sequence[Rollout]) -> RolloutBatch:
        return RolloutBatch.from_rollouts(rollouts, pad_id=self._inputs.pad_id)

    def _responses(self, rollouts: Mapping[int, Rollout]) -> Responses:
        whole = in_order(rollouts.items())
        return Responses(self._batch(whole), tool_call_metrics(whole))


def split_rows(num_rows: int, num_parts: int) -> list[list[int]]:
    """Row indices in at most `num_parts` parts of nearly equal size, in order."""
    parts = np.array_split(np.arange(num_rows), num_parts)
    return [[int(row) for row in part] for part in parts if len(part)]
