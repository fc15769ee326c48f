"""One PPO iteration over the actors: the page to read first.

prompts -> rollouts -> scores, values, policy and reference logprobs -> KL-shaped rewards -> GAE ->
policy and critic updates -> published weights. Other estimators than GAE have no critic.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from actors.critic import CriticActor
from actors.group import ActorGroup
from actors.policy import PolicyActor
from actors.reference import ReferenceActor
from actors.reward import RewardActor
from actors.rollout import RolloutActor
from actors.weight_sync import WeightSync
from moss.config.ppo import TrainPPOConfig
from moss.experience import (
    ExperienceReport,
    ScoredRollouts,
    Scores,
    UpdateReport,
    drop_failed,
    make_experience,
    plan_minibatches,
)
from moss.kl import adapt_coefficient
from moss.ppo_inputs import PPOInputs
from moss.rollouts import Experience, Floats, RolloutBatch, SampleRequest


@dataclass(frozen=True, slots=True)
class PPOActors:
    """The roles, loaded."""

    policy: ActorGroup[PolicyActor]
    critic: ActorGroup[CriticActor] | None
    """None where the estimator has no critic."""
    reference: ActorGroup[ReferenceActor]
    reward: ActorGroup[RewardActor]
    rollout: ActorGroup[RolloutActor]

    def stop(self) -> None:
        """End every actor; what they hold is lost."""
        for group in (self.rollout, self.policy, self.critic, self.reference, self.reward):
            if group is not None:
                group.stop()


@dataclass(frozen=True, slots=True)
class IterationReport:
    """What one iteration did."""

    iteration: int
    """Iterations done, this one included; also the version of the weights it published."""
    experience: ExperienceReport
    kl_coefficient: float
    """Beta of this iteration."""
    policy: UpdateReport | None
    """None while only the critic trains."""
    critic: UpdateReport | None
    """None where the estimator has no critic."""
    num_responses: int
    num_response_tokens: int
    dropped: list[dict[str, str]]
    """Row and reason of each response without a reward."""
    seconds: dict[str, float]
    """Wall time of each phase."""


class PPOTrainer:
    """Runs iterations; all it knows besides the actors is `iteration` and `kl_coefficient`."""

    def __init__(
        self,
        actors: PPOActors,
        weights: WeightSync,
        inputs: PPOInputs,
        config: TrainPPOConfig,
        *,
        iteration: int,
        kl_coefficient: float,
    ) -> None:
        """Go on after `iteration` iterations, with the beta that the last of them left."""
        self._actors, self._weights, self._inputs = actors, weights, inputs
        self._config, self._timeouts, self._sampling = (
            config.ppo,
            config.timeouts,
            config.rollout.sampling,
        )
        self.iteration = iteration
        """Iterations done; the rollout actors hold the weights of this version."""
        self.kl_coefficient = kl_coefficient
        """Beta of the next iteration; moves where the config gives a `kl_target`."""

    def step(self) -> IterationReport:
        """One iteration (section 7.2)."""
        clock = _PhaseClock()
        requests = self._inputs.prompts.batch(
            self.iteration,
            self._config.num_prompts,
            responses_per_prompt=self._config.responses_per_prompt,
        )
        rollouts = self._generate(requests)
        clock.end("rollout")
        scored, dropped = self._score(rollouts)
        experience, described = make_experience(
            scored,
            self._config,
            score_scale=self._inputs.score_scale,
            kl_coefficient=self.kl_coefficient,
        )
        clock.end("score")
        policy, critic = self._update(experience)
        clock.end("update")
        self._weights.push(self.iteration + 1)
        clock.end("weight_push")
        self.iteration += 1
        report = IterationReport(
            iteration=self.iteration,
            experience=described,
            kl_coefficient=self.kl_coefficient,
            policy=policy,
            critic=critic,
            num_responses=rollouts.num_rollouts,
            num_response_tokens=rollouts.num_response_tokens,
            dropped=dropped,
            seconds=clock.seconds,
        )
        self._adapt_kl_coefficient(report)
        return report

    def _generate(self, requests: Sequence[SampleRequest]) -> RolloutBatch:
        group = self._actors.rollout
        shards = [
            [requests[row] for row in rows] for rows in _split(len(requests), group.num_ranks)
        ]
        pending = group.map(
            RolloutActor.generate, shards, self._sampling, self._inputs.stop_ids, self.iteration
        )
        answers = pending.wait(self._timeouts.generate_s)
        return RolloutBatch.from_rollouts(
            [rollout for answer in answers for rollout in answer], pad_id=self._inputs.pad_id
        )

    def _score(self, rollouts: RolloutBatch) -> tuple[ScoredRollouts, list[dict[str, str]]]:
        """All forward passes at once, one per role."""
        actors, limit_s = self._actors, self._timeouts.score_s
        scores = actors.reward.map(RewardActor.score, _shards(rollouts, actors.reward.num_ranks))
        reference = actors.reference.map(
            ReferenceActor.logprobs, _shards(rollouts, actors.reference.num_ranks)
        )
        logprobs = actors.policy.call(PolicyActor.logprobs, rollouts)
        values = actors.critic.call(CriticActor.values, rollouts) if actors.critic else None
        joined = _join_scores(scores.wait(limit_s))
        scored = ScoredRollouts(
            rollouts=rollouts,
            prompts_B=np.arange(rollouts.num_rollouts) // self._config.responses_per_prompt,
            scores_B=joined.scores_B,
            logprobs_BT=logprobs.wait(limit_s)[0],
            reference_logprobs_BT=_join_rows(
                reference.wait(limit_s), width=rollouts.tokens_BT.shape[1]
            ),
            values_BT=values.wait(limit_s)[0] if values else None,
        )
        return drop_failed(scored, joined.failures)

    def _update(self, experience: Experience) -> tuple[UpdateReport | None, UpdateReport | None]:
        """Policy and critic side by side; the critic alone during its warm-up."""
        actors, limit_s = self._actors, self._timeouts.update_s
        plan = plan_minibatches(
            experience, self._config, seed=self._inputs.prompts.seed + self.iteration
        )
        warming_up = self.iteration < self._config.critic_warmup_iterations
        critic = actors.critic.call(CriticActor.update, experience, plan) if actors.critic else None
        policy = None if warming_up else actors.policy.call(PolicyActor.update, experience, plan)
        return (
            policy.wait(limit_s)[0] if policy else None,
            critic.wait(limit_s)[0] if critic else None,
        )

    def _adapt_kl_coefficient(self, report: IterationReport) -> None:
        """Only by iterations that move the policy: while it stands still, its KL says nothing."""
        if self._config.kl_target is None or report.policy is None:
            return
        self.kl_coefficient = adapt_coefficient(
            self.kl_coefficient,
            kl_nats=report.experience.kl_nats,
            target_nats=self._config.kl_target,
            num_responses=report.num_responses - len(report.dropped),
            horizon=self._config.kl_horizon,
        )


class _PhaseClock:
    """Wall seconds of phases that follow each other."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = time.monotonic()

    def end(self, phase: str) -> None:
        """The phase since the last call, or since the start, ends now."""
        now = time.monotonic()
        self.seconds[phase] = now - self._began
        self._began = now


def _split(num_rows: int, num_parts: int) -> list[list[int]]:
    parts = np.array_split(np.arange(num_rows), num_parts)
    return [[int(row) for row in part] for part in parts if len(part)]


def _shards(batch: RolloutBatch, num_ranks: int) -> list[RolloutBatch]:
    return [batch.rows(rows) for rows in _split(batch.num_rollouts, num_ranks)]


def _join_rows(parts: Sequence[Floats], *, width: int) -> Floats:
    return np.concatenate([np.pad(part, ((0, 0), (0, width - part.shape[1]))) for part in parts])


def _join_scores(parts: Sequence[Scores]) -> Scores:
    failures: dict[int, str] = {}
    start = 0
    for part in parts:
        failures |= {start + row: reason for row, reason in part.failures.items()}
        start += len(part.scores_B)
    return Scores(np.concatenate([part.scores_B for part in parts]), failures)
