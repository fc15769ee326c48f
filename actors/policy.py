"""The policy being trained: logprobs, updates, published weights, checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from actors.trained import TrainedActor
from moss.config.ppo import PPOConfig

if TYPE_CHECKING:
    from torch import Tensor

    from moss.rollouts import Floats, RolloutBatch
    from moss.weight_files import WeightFile


class PolicyActor(TrainedActor):
    """One rank of the policy; `load` comes first."""

    def load(
        self, checkpoint: str, config: PPOConfig, *, num_steps: int, temperature: float
    ) -> None:
        """Start from a policy checkpoint, with a fresh optimizer.

        Args:
            num_steps: optimizer steps of the whole run.
            temperature: what responses are sampled at; logprobs are those at this temperature.
        Raises:
            DataError: the folder holds no checkpoint.
        """
        from moss.learner import Learner
        from moss.models import load_policy
        from moss.part_losses import policy_part

        self._checkpoint, self._temperature = checkpoint, temperature
        # The engine moves it to its device, once it is rounded: a GPU may not hold all of it.
        self._model = load_policy(checkpoint, dtype=self.dtype)
        self._part_loss = policy_part(config, temperature=temperature)
        self._learner = Learner(
            self._model,
            config,
            self._actor,
            peak_learning_rate=config.policy_learning_rate,
            num_steps=num_steps,
        )

    def logprobs(self, batch: RolloutBatch) -> Floats:
        """(B, T) log probability of each response token under the present weights."""
        from moss.forward import response_logprobs

        return self._learner.evaluate_tokens(
            lambda tokens_BT, mask_BT: response_logprobs(
                self._model, tokens_BT, mask_BT, temperature=self._temperature
            ),
            batch,
        )

    def publish(self, folder: str, version: int, probe_ids: list[int]) -> WeightFile | None:
        """Write the present weights to `folder` for the rollout actors.

        Args:
            probe_ids: a prompt on which receivers must compute what this actor computes.
        Returns: the file, from rank 0; None from the others, which hand it their shards.
        """
        from moss.forward import likeliest_logprob_tensor
        from moss.weight_files import WeightProbe, write_weights

        logprob = self._learner.evaluate(lambda _: likeliest_logprob_tensor(self._model, probe_ids))
        weights = self._weights()
        if self._learner.rank:
            return None
        return write_weights(
            weights, folder, version=version, probe=WeightProbe(probe_ids, float(logprob))
        )

    def save_checkpoint(self, folder: str) -> None:
        """Write a Transformers checkpoint with the tokenizer of the first one."""
        from moss.models import save_model

        weights = self._weights()
        if not self._learner.rank:
            save_model(folder, self._model, tokenizer_folder=self._checkpoint, weights=weights)

    def _weights(self) -> dict[str, Tensor]:
        """Fp32 on CPU, each tensor under one name, on rank 0; nothing on the others.

        To be written before the next update.
        """
        tied = set(self._model.all_tied_weights_keys)
        return {k: v for k, v in self._learner.weights(copy=False).items() if k not in tied}
