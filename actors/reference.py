"""The frozen policy that PPO is kept close to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from actors.model_process import set_threads
from moss.config.ppo_actors import ReferenceActorConfig

if TYPE_CHECKING:
    from moss.rollouts import Floats, RolloutBatch


class ReferenceActor:
    """Logprobs under the weights PPO started from; `load` comes first."""

    def __init__(self, actor: ReferenceActorConfig) -> None:
        set_threads(actor.num_threads)
        self._actor = actor

    def load(self, checkpoint: str, *, temperature: float, max_rows: int) -> None:
        """Read a policy checkpoint.

        Args:
            max_rows: rows of one forward pass.
        Raises:
            DataError: the folder holds no checkpoint.
        """
        import torch

        from moss.models import load_policy

        dtype = torch.bfloat16 if self._actor.precision == "bf16" else torch.float32
        self._model = load_policy(checkpoint, dtype=dtype).eval().to(self._actor.device)
        self._temperature, self._max_rows = temperature, max_rows

    def logprobs(self, batch: RolloutBatch) -> Floats:
        """(B, T) log probability of each response token."""
        from moss.forward import evaluate_logprobs

        return evaluate_logprobs(
            self._model, batch, temperature=self._temperature, max_rows=self._max_rows
        )
