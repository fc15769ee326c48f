"""Versioned, checked transfer of weights from the policy to every rollout actor."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from actors.group import ActorGroup
from actors.model_process import node_id
from actors.policy import PolicyActor
from actors.rollout import RolloutActor
from moss.errors import MossError, WaitTimeoutError
from moss.rank_states import RankStates
from moss.weight_files import WeightFile, discard_weights, transfer_folder

_MOST_PROBE_TOKENS = 4
"""Every weight takes part in the first token, and each more costs time at every push."""


class WeightSync:
    """Publishes policy weights and makes sure they arrived: on one node through shared memory, on
    several through the run's folder, which all of them have to see."""

    def __init__(
        self,
        policies: ActorGroup[PolicyActor],
        rollouts: ActorGroup[RolloutActor],
        *,
        run_folder: str,
        probe_ids: list[int],
        timeout_s: float,
    ) -> None:
        """Set up the transfer folder.

        Args:
            rollouts: loaded actors.
            probe_ids: a prompt on which the rollout actors must compute what the policy computes.
        Raises:
            WaitTimeoutError: an actor did not say on which node it sits.
            WeightSyncError: several nodes, and no folder that all of them see.
        """
        self._probe_ids = probe_ids[:_MOST_PROBE_TOKENS]
        self._policies, self._rollouts, self._timeout_s = policies, rollouts, timeout_s
        self._folder = transfer_folder(run_folder if self._spans_nodes() else None)
        self._version = 0
        self.states = RankStates(rollouts.name, rollouts.num_ranks)
        """What the rollout actors may do."""
        self.states.load(range(rollouts.num_ranks))

    def push(self, version: int) -> None:
        """Put the policy's present weights, as `version`, into every rollout actor.

        Raises:
            WeightSyncError: they did not arrive whole, everywhere.
            WaitTimeoutError, ActorLostError: the policy, or a rollout actor that nobody brings
                back, gave no answer in time or died.
        """
        self._version = version
        lost = self.refit(range(self._rollouts.num_ranks))
        if lost:
            self._rollouts.recover(lost)
        self.check_current(version)

    def refit(self, ranks: Sequence[int]) -> dict[int, MossError]:
        """Put the weights of the last push into some ranks; the policy must still hold them.

        Returns: the ranks that were lost meanwhile.
        Raises:
            WeightSyncError: they did not arrive whole.
        """
        file = self._publish()
        receive = self._rollouts.call_on(ranks, RolloutActor.receive_weights, file)
        versions, lost = receive.settle(self._timeout_s)
        for rank, version in versions.items():
            self.states.refit(rank, version)
        discard_weights(file)
        return lost

    def check_current(self, version: int) -> None:
        """Raise WeightSyncError unless every rollout actor samples from this version."""
        self.states.check_current(version)

    def _spans_nodes(self) -> bool:
        """Whether the actors do not all sit on this process's node."""
        asked = self._policies.call(PolicyActor.node), self._rollouts.call(RolloutActor.node)
        nodes = {node for pending in asked for node in pending.wait(self._timeout_s)}
        return nodes != {node_id()}

    def close(self) -> None:
        """Remove the transfer folder."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _publish(self) -> WeightFile:
        publish = self._policies.call(
            PolicyActor.publish, self._folder, self._version, self._probe_ids
        )
        try:
            file, *_ = publish.wait(self._timeout_s)
        except WaitTimeoutError as error:
            raise WaitTimeoutError(
                f"weights version {self._version} were not published: {error}"
            ) from error
        assert file is not None, "rank 0 writes the weights"
        return file
