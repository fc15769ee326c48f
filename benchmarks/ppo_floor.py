"""The floor of a PPO iteration: its computations in one process, each the fastest way we know.

No Ray, no DeepSpeed, no second pass for the old logprobs: those of the sampler are exact here. Rows
are sorted by length before every pass. Two orders are measured: one computation after the other on
all threads, and side by side on one thread each, where a small model wastes less.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import nn

from benchmarks.lean_decoder import LeanDecoder
from benchmarks.ppo_assets import load_assets
from moss.config.ppo import PPOConfig, SamplingParams, TrainPPOConfig
from moss.experience import ScoredRollouts, make_experience, plan_minibatches
from moss.forward import evaluate_logprobs, evaluate_scores, evaluate_tokens, response_values
from moss.models import PreferenceModel, ValueModel, load_policy
from moss.part_losses import PartLoss, policy_part, value_part
from moss.ppo_inputs import PPOInputs
from moss.rollouts import Experience, Floats, RolloutBatch, length_sorted_groups

T = TypeVar("T")
Order = Literal["in turn", "side by side"]
ORDERS: tuple[Order, ...] = ("in turn", "side by side")


class Floor:
    """Four models and their two optimizers in this process."""

    def __init__(
        self, inputs: PPOInputs, config: PPOConfig, sampling: SamplingParams, *, num_threads: int
    ) -> None:
        torch.set_num_threads(num_threads)
        self._inputs, self._config, self._sampling = inputs, config, sampling
        self._num_threads = num_threads
        self._pool = ThreadPoolExecutor(num_threads)
        self.policy, self._reference = (load_policy(inputs.policy) for _ in range(2))
        self._scorer = PreferenceModel.load(inputs.preference_model)
        self.critic = ValueModel.from_preference_model(inputs.preference_model)
        with torch.no_grad():
            for parameter in self.critic.value_head.parameters():
                parameter.div_(inputs.score_scale)
        self._optimizers = {
            model: torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0, fused=True)
            for model, rate in (
                (self.policy, config.policy_learning_rate),
                (self.critic, config.critic_learning_rate),
            )
        }
        self._decoder = LeanDecoder(self.policy)

    def step(self, iteration: int, order: Order) -> dict[str, float]:
        """One iteration; wall seconds of each phase, named as `PPOTrainer` names them."""
        began = time.perf_counter()
        seconds: dict[str, float] = {}

        def end(phase: str) -> None:
            seconds[phase] = time.perf_counter() - began - sum(seconds.values())

        rollouts = self._generate(iteration)
        end("rollout")
        experience = self._score(rollouts, order)
        end("score")
        self._update(experience, iteration, order)
        end("update")
        self._decoder.take_weights(self.policy)
        end("weight_push")
        return seconds

    def _generate(self, iteration: int) -> RolloutBatch:
        requests = self._inputs.prompts.batch(iteration, self._config.num_rollouts)
        rollouts = self._decoder.generate(requests, self._sampling, self._inputs.stop_ids)
        return RolloutBatch.from_rollouts(rollouts, pad_id=self._inputs.pad_id)

    def _score(self, rollouts: RolloutBatch, order: Order) -> Experience:
        at_once = self._config.micro_batch_size
        device = torch.device("cpu")

        def reference() -> Floats:
            temperature = self._sampling.temperature
            return evaluate_logprobs(
                self._reference, rollouts, temperature=temperature, max_rows=at_once
            )

        def scores() -> Floats:
            return evaluate_scores(self._scorer, rollouts, device=device, max_rows=at_once)

        def values() -> Floats:
            return evaluate_tokens(
                lambda tokens_BT, mask_BT: response_values(self.critic, tokens_BT, mask_BT),
                rollouts,
                device=device,
                max_rows=at_once,
            )

        reference_BT, scores_B, values_BT = self._run([reference, scores, values], order)
        scored = ScoredRollouts(
            rollouts=rollouts,
            prompts_B=np.arange(rollouts.num_rollouts),
            scores_B=scores_B,
            logprobs_BT=rollouts.rollout_logprobs_BT,
            reference_logprobs_BT=reference_BT,
            values_BT=values_BT,
        )
        experience, _ = make_experience(
            scored,
            self._config,
            score_scale=self._inputs.score_scale,
            kl_coefficient=self._config.kl_coefficient,
        )
        return experience

    def _update(self, experience: Experience, iteration: int, order: Order) -> None:
        plan = plan_minibatches(
            experience, self._config, seed=self._inputs.prompts.seed + iteration
        )

        def train(model: nn.Module, part_loss: PartLoss) -> None:
            for rows in plan:
                self._train(model, part_loss, experience.rows(rows))

        policy = policy_part(self._config, temperature=self._sampling.temperature)
        critic = value_part(self._config)
        self._run([lambda: train(self.policy, policy), lambda: train(self.critic, critic)], order)

    def _train(self, model: nn.Module, part_loss: PartLoss, minibatch: Experience) -> None:
        """One optimizer step."""
        num_tokens = minibatch.rollouts.num_response_tokens
        lengths_B = minibatch.rollouts.lengths_B
        for rows in length_sorted_groups(lengths_B, max_rows=self._config.micro_batch_size):
            loss = part_loss(model, minibatch.rows(rows), num_tokens).loss
            loss.backward()  # type: ignore[no-untyped-call]
        optimizer = self._optimizers[model]
        nn.utils.clip_grad_norm_(model.parameters(), self._config.max_grad_norm, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def _run(self, jobs: Sequence[Callable[[], T]], order: Order) -> list[T]:
        """What independent jobs give, one after the other or side by side."""
        if order == "in turn":
            return [job() for job in jobs]

        def alone(job: Callable[[], T]) -> T:
            torch.set_num_threads(1)
            return job()

        try:
            return list(self._pool.map(alone, jobs))
        finally:
            torch.set_num_threads(self._num_threads)


def serve_floor(
    requests: Connection, assets: str, config: TrainPPOConfig, num_threads: int
) -> None:
    """Child process: runs each (iteration, order) it receives and sends the seconds."""
    floor = Floor(
        load_assets(Path(assets)), config.ppo, config.rollout.sampling, num_threads=num_threads
    )
    while (request := requests.recv()) is not None:
        requests.send(floor.step(*request))
