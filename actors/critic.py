"""The critic of GAE: values of response prefixes, started from the preference model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from actors.trained import TrainedActor
from moss.config.ppo import PPOConfig

if TYPE_CHECKING:
    from moss.rollouts import Floats, RolloutBatch


class CriticActor(TrainedActor):
    """One rank of the critic; `load` comes first."""

    def load(
        self, checkpoint: str, config: PPOConfig, *, num_steps: int, score_scale: float
    ) -> None:
        """Start as the preference model of a folder, in units of the scaled reward.

        Args:
            num_steps: optimizer steps of the whole run.
            score_scale: what rewards are divided by, and so the values.
        Raises:
            DataError: the folder holds no preference model.
        """
        import torch

        from moss.learner import Learner
        from moss.models import ValueModel
        from moss.part_losses import value_part

        self._model = ValueModel.from_preference_model(checkpoint, dtype=self.dtype)
        with torch.no_grad():
            for parameter in self._model.value_head.parameters():
                parameter.div_(score_scale)
        self._part_loss = value_part(config)
        self._learner = Learner(
            self._model,
            config,
            self._actor,
            peak_learning_rate=config.critic_learning_rate,
            num_steps=num_steps,
        )

    def values(self, batch: RolloutBatch) -> Floats:
        """(B, T) value before each response token."""
        from moss.forward import response_values

        return self._learner.evaluate_tokens(
            lambda tokens_BT, mask_BT: response_values(self._model, tokens_BT, mask_BT), batch
        )
