"""The preference model as a reward (paper section 7.2)."""

from __future__ import annotations

from moss.rewards.base import Outcome, RewardBatch, number_or_failure


class PreferenceModelScorer:
    """r(x, y) of equation 1 over whole sequences, tool results included.

    Raises (constructor):
        DataError: the folder holds no preference model.
    """

    def __init__(self, checkpoint: str, *, device: str, max_rows: int) -> None:
        """Load a checkpoint onto a device; `max_rows` are in one forward pass."""
        from moss.models import PreferenceModel

        self._model = PreferenceModel.load(checkpoint).eval().to(device)
        self._max_rows = max_rows

    def score(self, batch: RewardBatch) -> list[Outcome]:
        """See `moss.rewards.base.Reward`."""
        from moss.forward import evaluate_scores

        scores_B = evaluate_scores(
            self._model,
            batch.rollouts,
            device=self._model.body.device,
            max_rows=self._max_rows,
        )
        return [number_or_failure(score, "the preference model") for score in scores_B.tolist()]

    def close(self) -> None:
        """Nothing is held beyond the model."""
