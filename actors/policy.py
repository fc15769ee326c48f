"""The policy being trained: logprobs, updates, published weights, checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from actors.model_process import set_threads
from moss.config.ppo import ActorConfig, PPOConfig

if TYPE_CHECKING:
    from moss.experience import UpdateReport
    from moss.rollouts import Experience, Floats, RolloutBatch
    from moss.weight_files import WeightFile


class PolicyActor:
    """One trainer process; `load` comes first."""

    def __init__(self, actor: ActorConfig) -> None:
        set_threads(actor.num_threads)
        self._actor = actor

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
        from moss.learner import Learner, policy_part
        from moss.models import load_policy

        self._checkpoint, self._temperature = checkpoint, temperature
        self._max_rows = config.micro_batch_size
        self._model = load_policy(checkpoint).to(self._actor.device)
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
        from moss.forward import evaluate_logprobs

        return evaluate_logprobs(
            self._model, batch, temperature=self._temperature, max_rows=self._max_rows
        )

    def update(self, experience: Experience, minibatches: Sequence[Sequence[int]]) -> UpdateReport:
        """One optimizer step per minibatch of rows."""
        return self._learner.update(experience, minibatches, self._part_loss)

    def publish(self, folder: str, version: int, probe_ids: list[int]) -> WeightFile:
        """Write the present weights to `folder` for the rollout actors.

        Args:
            probe_ids: a prompt on which receivers must compute what this actor computes.
        """
        from moss.forward import likeliest_logprob
        from moss.weight_files import WeightProbe, write_weights

        probe = WeightProbe(probe_ids, likeliest_logprob(self._model, probe_ids))

        tied = set(self._model.all_tied_weights_keys)
        weights = {k: v for k, v in self._learner.weights().items() if k not in tied}
        return write_weights(weights, folder, version=version, probe=probe)

    def save_state(self, folder: str) -> None:
        """Write weights, optimizer and place in the schedule."""
        self._learner.save(folder)

    def load_state(self, folder: str) -> None:
        """Continue exactly where `save_state` stood."""
        self._learner.load(folder)

    def save_checkpoint(self, folder: str) -> None:
        """Write a Transformers checkpoint with the tokenizer of the first one."""
        from moss.models import save_model

        save_model(folder, self._model, tokenizer_folder=self._checkpoint)
