"""The responses of each iteration, asked of the rollout actors; in time, or an iteration ahead.

Ahead (`rollout.one_step_off`): while iteration k is scored and learned from, the responses of k + 1
are sampled with the weights that k began with. Their version stands in each of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from actors.group import ActorGroup
from actors.pending import Pending
from actors.rollout import RolloutActor
from actors.weight_sync import WeightSync
from moss.config.ppo import TrainPPOConfig
from moss.ppo_inputs import PPOInputs
from moss.rollouts import Rollout, RolloutBatch
from moss.staleness import check_staleness
from moss.tool_rollouts import tool_call_metrics


@dataclass(frozen=True, slots=True)
class Responses:
    """What the rollout actors answered to the prompts of one iteration."""

    batch: RolloutBatch
    metrics: dict[str, float]
    """By metric name, of runs with tools in rollouts."""


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
        self._ppo, self._sampling = config.ppo, config.rollout.sampling
        self._timeout_s = config.timeouts.generate_s
        self._one_step_off = config.rollout.one_step_off
        self._num_iterations = inputs.num_iterations(config)
        self._under_way: Pending[list[Rollout]] | None = None
        self.ahead = ahead
        """Responses of the next iteration; None unless they were made already."""

    def take(self, iteration: int) -> Responses:
        """The responses of an iteration, counted from 0: those made ahead, or made now.

        Raises:
            WeightSyncError: they are of other weights than the config allows, or rollout actors
                hold others than the iteration's.
        """
        taken, self.ahead = self.ahead, None
        if taken is None:
            taken = self._collect(self._ask(iteration, version=iteration))
        most = int(self._one_step_off)
        check_staleness(taken.batch, policy_version=iteration, most=most)
        return taken

    def begin_next(self, iteration: int) -> None:
        """Start the next iteration's responses, if they are made ahead and it is not the last."""
        if self._one_step_off and iteration + 1 < self._num_iterations:
            self._under_way = self._ask(iteration + 1, version=iteration)

    def finish_next(self) -> None:
        """Wait for what `begin_next` started: no weights may be replaced before."""
        if self._under_way is not None:
            self.ahead = self._collect(self._under_way)
            self._under_way = None

    def _ask(self, iteration: int, *, version: int) -> Pending[list[Rollout]]:
        self._weights.check_current(version)
        requests = self._inputs.prompts.batch(
            iteration,
            self._ppo.num_prompts,
            responses_per_prompt=self._ppo.responses_per_prompt,
        )
        shards = [
            [requests[row] for row in rows]
            for rows in split_rows(len(requests), self._rollouts.num_ranks)
        ]
        return self._rollouts.map(
            RolloutActor.generate, shards, self._sampling, self._inputs.stop_ids, version
        )

    def _collect(self, pending: Pending[list[Rollout]]) -> Responses:
        answers = pending.wait(self._timeout_s)
        rollouts = [rollout for answer in answers for rollout in answer]
        batch = RolloutBatch.from_rollouts(rollouts, pad_id=self._inputs.pad_id)
        return Responses(batch, tool_call_metrics(rollouts))


def split_rows(num_rows: int, num_parts: int) -> list[list[int]]:
    """Row indices in at most `num_parts` parts of nearly equal size, in order."""
    parts = np.array_split(np.arange(num_rows), num_parts)
    return [[int(row) for row in part] for part in parts if len(part)]
