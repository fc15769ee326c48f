"""Versioned, checked transfer of weights from the policy to every rollout actor."""

from __future__ import annotations

import shutil
from pathlib import Path

from actors.group import ActorGroup
from actors.policy import PolicyActor
from actors.rollout import RolloutActor
from moss.errors import WaitTimeoutError, WeightSyncError
from moss.weight_files import transfer_folder


class WeightSync:
    """Publishes policy weights through shared memory and makes sure they arrived.

    Policy and rollout actors must see one file system; across nodes the folder has to be shared.
    """

    def __init__(
        self,
        policies: ActorGroup[PolicyActor],
        rollouts: ActorGroup[RolloutActor],
        *,
        probe_ids: list[int],
        timeout_s: float,
    ) -> None:
        """Set up the transfer folder.

        Args:
            probe_ids: a prompt on which the rollout actors must compute what the policy computes.
        """
        self._probe_ids = probe_ids
        self._policies, self._rollouts, self._timeout_s = policies, rollouts, timeout_s
        self._folder = transfer_folder()

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

    def close(self) -> None:
        """Remove the transfer folder."""
        shutil.rmtree(self._folder, ignore_errors=True)
