"""Rewards from the preference model."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from actors.model_process import set_threads
from moss.config.ppo_actors import ActorConfig

if TYPE_CHECKING:
    from moss.experience import Scores
    from moss.rollouts import RolloutBatch


class RewardActor:
    """Scores whole responses; `load` comes first."""

    def __init__(self, actor: ActorConfig) -> None:
        set_threads(actor.num_threads)
        self._actor = actor

    def load(self, checkpoint: str, *, max_rows: int) -> float:
        """Read a preference model; returns the spread of its scores on validation responses.

        Args:
            max_rows: rows of one forward pass.
        Raises:
            DataError: the folder holds no preference model.
        """
        from moss.models import PreferenceModel

        self._model = PreferenceModel.load(checkpoint).eval().to(self._actor.device)
        self._max_rows = max_rows
        spread = self._model.score_std
        return spread if math.isfinite(spread) and spread > 0 else 1.0

    def score(self, batch: RolloutBatch) -> Scores:
        """Preference scores; a score that is not finite is a failure with its reason."""
        from moss.experience import Scores
        from moss.forward import evaluate_scores

        scores_B = evaluate_scores(
            self._model, batch, device=self._model.body.device, max_rows=self._max_rows
        )
        failures = {
            row: f"the preference model gave {score}"
            for row, score in enumerate(scores_B.tolist())
            if not math.isfinite(score)
        }
        return Scores(scores_B, failures)
