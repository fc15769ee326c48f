"""Versioned, checked transfer of weights from the policy to every rollout actor."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from actors.group import ActorGroup
from actors.model_process import node_id
from actors.policy import PolicyActor
from actors.rollout import RolloutActor
from moss.config.ppo import PPOTimeouts, RolloutConfig
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
        timeouts: PPOTimeouts,
        rollout: RolloutConfig,
    ) -> None:
        """Set up the transfer folder.

        Args:
            rollouts: loaded actors.
            probe_ids: a prompt on which the rollout actors must compute what the policy computes.
            rollout: whether engines sleep, and whether they sample while the policy moves on.
        Raises:
            WaitTimeoutError: an actor did not say on which node it sits.
            WeightSyncError: several nodes, and no folder that all of them see.
        """
        self._probe_ids = probe_ids[:_MOST_PROBE_TOKENS]
        self._policies, self._rollouts = policies, rollouts
        self._timeout_s, self._sleep_s = timeouts.sync_s, timeouts.sleep_s
        self._sleeps, self._keeps_file = rollout.sleep_level > 0, rollout.one_step_off
        self._kept: WeightFile | None = None
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
        self._drop_kept()
        lost = self._wake()
        awake = [rank for rank in range(self._rollouts.num_ranks) if rank not in lost]
        lost |= self.refit(awake) if awake else {}
        if lost:
            self._rollouts.recover(lost)
        self.check_current(version)

    def rest(self) -> None:
        """Until the next push no response is asked for: rollout actors that sleep do so now.

        Raises:
            WaitTimeoutError, ActorLostError: one that nobody brings back did not fall asleep.
        """
        if not self._sleeps:
            return
        self._rollouts.call(RolloutActor.sleep).wait(self._sleep_s)
        self.states.sleep(range(self._rollouts.num_ranks))

    def _wake(self) -> dict[int, MossError]:
        """Wake who sleeps; the ranks that did not are lost."""
        asleep = self.states.asleep()
        if not asleep:
            return {}
        woken, lost = self._rollouts.call_on(asleep, RolloutActor.wake_up).settle(self._sleep_s)
        self.states.wake(list(woken))
        return lost

    def refit(self, ranks: Sequence[int]) -> dict[int, MossError]:
        """Put the weights of the last push into some ranks; the policy must still hold them, where
        their file is not kept.

        Returns: the ranks that were lost meanwhile.
        Raises:
            WeightSyncError: they did not arrive whole.
        """
        file = self._kept or self._publish()
        receive = self._rollouts.call_on(ranks, RolloutActor.receive_weights, file)
        versions, lost = receive.settle(self._timeout_s)
        for rank, version in versions.items():
            self.states.refit(rank, version)
        self._kept = file
        if not self._keeps_file:
            self._drop_kept()
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

    def _drop_kept(self) -> None:
        if self._kept is not None:
            discard_weights(self._kept)
        self._kept = None

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
