"""The frozen policy that PPO is kept close to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from actors.model_process import set_threads
from moss.config.ppo import ActorConfig

if TYPE_CHECKING:
    from moss.rollouts import Floats, RolloutBatch


class ReferenceActor:
    """Logprobs under the weights PPO started from; `load` comes first."""

    def __init__(self, actor: ActorConfig) -> None:
        set_threads(actor.num_threads)
        self._actor = actor

    def load(self, checkpoint: str, *, temperature: float, max_rows: int) -> None:
        """Read a policy checkpoint.

        Args:
            max_rows: rows of one forward pass.
        Raises:
            DataError: the folder holds no checkpoint.
        """
        from moss.models import load_policy

        self._model = load_policy(checkpoint).eval().to(self._actor.device)
        self._temperature, self._max_rows = temperature, max_rows

    def logprobs(self, batch: RolloutBatch) -> Floats:
        """(B, T) log probability of each response token."""
        from moss.forward import evaluate_logprobs

        return evaluate_logprobs(
            self._model, batch, temperature=self._temperature, max_rows=self._max_rows
        )
