"""Versioned, checked transfer of weights from the policy to every rollout actor."""

from __future__ import annotations

import shutil
from pathlib import Path

from actors.group import ActorGroup
from actors.model_process import node_id
from actors.policy import PolicyActor
from actors.rollout import RolloutActor
from moss.errors import WaitTimeoutError, WeightSyncError
from moss.weight_files import transfer_folder


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
            probe_ids: a prompt on which the rollout actors must compute what the policy computes.
        Raises:
            WaitTimeoutError: an actor did not say on which node it sits.
            WeightSyncError: several nodes, and no folder that all of them see.
        """
        self._probe_ids = probe_ids
        self._policies, self._rollouts, self._timeout_s = policies, rollouts, timeout_s
        self._folder = transfer_folder(run_folder if self._spans_nodes() else None)

    def push(self, version: int) -> None:
        """Put the policy's present weights, as `version`, into every rollout actor.

        Raises:
            WeightSyncError: they did not arrive whole, everywhere, in time.
        """
        try:
            publish = self._policies.call(
                PolicyActor.publish, self._folder, version, self._probe_ids
            )
            file, *_ = publish.wait(self._timeout_s)
            assert file is not None, "rank 0 writes the weights"
            receive = self._rollouts.call(RolloutActor.receive_weights, file)
            versions = receive.wait(self._timeout_s)
        except WaitTimeoutError as error:
            raise WeightSyncError(f"weights version {version} did not arrive: {error}") from error
        if set(versions) != {version}:
            raise WeightSyncError(
                f"weights version {version} were pushed, but the rollout actors sample {versions}"
            )
        Path(file.path).unlink(missing_ok=True)

    def _spans_nodes(self) -> bool:
        """Whether the actors do not all sit on this process's node."""
        asked = self._policies.call(PolicyActor.node), self._rollouts.call(RolloutActor.node)
        nodes = {node for pending in asked for node in pending.wait(self._timeout_s)}
        return nodes != {node_id()}

    def close(self) -> None:
        """Remove the transfer folder."""
        shutil.rmtree(self._folder, ignore_errors=True)
