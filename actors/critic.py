"""The critic of GAE: values of response prefixes, started from the preference model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from actors.model_process import set_threads
from moss.config.ppo import ActorConfig, PPOConfig

if TYPE_CHECKING:
    from moss.experience import UpdateReport
    from moss.rollouts import Experience, Floats, RolloutBatch


class CriticActor:
    """One trainer process; `load` comes first."""

    def __init__(self, actor: ActorConfig) -> None:
        set_threads(actor.num_threads)
        self._actor = actor

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

        from moss.learner import Learner, value_part
        from moss.models import ValueModel

        self._model = ValueModel.from_preference_model(checkpoint).to(self._actor.device)
        with torch.no_grad():
            for parameter in self._model.value_head.parameters():
                parameter.div_(score_scale)
        self._max_rows = config.micro_batch_size
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
        from moss.forward import evaluate_tokens, response_values

        return evaluate_tokens(
            lambda tokens_BT, mask_BT: response_values(self._model, tokens_BT, mask_BT),
            batch,
            device=self._model.body.device,
            max_rows=self._max_rows,
        )

    def update(self, experience: Experience, minibatches: Sequence[Sequence[int]]) -> UpdateReport:
        """One optimizer step per minibatch of rows."""
        return self._learner.update(experience, minibatches, self._part_loss)

    def save_state(self, folder: str) -> None:
        """Write weights, optimizer and place in the schedule."""
        self._learner.save(folder)

    def load_state(self, folder: str) -> None:
        """Continue exactly where `save_state` stood."""
        self._learner.load(folder)
