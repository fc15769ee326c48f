"""One PPO iteration over the actors: the page to read first.

prompts -> rollouts -> scores, values, policy and reference logprobs -> KL-shaped rewards -> GAE ->
policy and critic updates -> published weights. Other estimators than GAE have no critic. Rollouts
may come an iteration ahead (`actors/generation.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from actors.critic import CriticActor
from actors.generation import Generation, Responses
from actors.group import ActorGroup
from actors.pending import Pending
from actors.policy import PolicyActor
from actors.reference import ReferenceActor
from actors.reward import RewardActor
from actors.rollout import RolloutActor
from actors.scoring import Scoring
from actors.weight_sync import WeightSync
from moss.config.ppo import TrainPPOConfig
from moss.experience import (
    ExperienceReport,
    ScoredRollouts,
    UpdateReport,
    drop_failed,
    make_experience,
    plan_minibatches,
)
from moss.kl import adapt_coefficient
from moss.metrics import reward_score
from moss.ppo_inputs import PPOInputs
from moss.reward_normalization import RewardNormalizer
from moss.rewards.base import PromptFacts, mean_parts
from moss.rollouts import Experience, RolloutBatch

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class PPOActors:
    """The roles, loaded."""

    policy: ActorGroup[PolicyActor]
    critic: ActorGroup[CriticActor] | None
    """None where the estimator has no critic."""
    reference: ActorGroup[ReferenceActor]
    reward: ActorGroup[RewardActor]
    rollout: ActorGroup[RolloutActor]

    def run(self, function: Callable[[], R]) -> list[Pending[R]]:
        """Start a function in every actor's process."""
        groups = (self.rollout, self.policy, self.critic, self.reference, self.reward)
        return [group.run(function) for group in groups if group is not None]

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
    scored: ScoredRollouts
    """What the update learned from."""
    kl_coefficient: float
    """Beta of this iteration."""
    policy: UpdateReport | None
    """None while only the critic trains."""
    critic: UpdateReport | None
    """None where the estimator has no critic."""
    num_responses: int
    num_response_tokens: int
    num_tokens: int
    """Of prompts and responses."""
    dropped: list[dict[str, str]]
    """Row and reason of each response without a reward."""
    score_mean: float
    """Taken off each score, which is then divided by `score_scale`."""
    score_scale: float
    optional_metrics: dict[str, float]
    """By metric name, of what only some runs have: several rewards, tools in rollouts."""
    seconds: dict[str, float]
    """Wall time of each phase."""


class PPOTrainer:
    """Runs iterations; all it knows besides the actors is `iteration`, `state()` and `ahead`."""

    def __init__(
        self,
        actors: PPOActors,
        weights: WeightSync,
        inputs: PPOInputs,
        config: TrainPPOConfig,
        *,
        iteration: int,
        kl_coefficient: float,
        normalizer_state: Mapping[str, float] | None = None,
        ahead: Responses | None = None,
    ) -> None:
        """Go on after `iteration` iterations, with the beta and what the last of them left: also
        the responses that were made ahead."""
        self._actors, self._weights, self._inputs = actors, weights, inputs
        self._config, self._timeouts = config.ppo, config.timeouts
        self._generation = Generation(actors.rollout, weights, inputs, config, ahead=ahead)
        self._rewards = config.rewards
        self._normalizer = RewardNormalizer(
            config.rewards.normalization, fixed_scale=inputs.score_scale
        )
        if normalizer_state:
            self._normalizer.load(normalizer_state)
        self.iteration = iteration
        """Iterations done; the rollout actors hold the weights of this version."""
        self.kl_coefficient = kl_coefficient
        """Beta of the next iteration; moves where the config gives a `kl_target`."""

    def step(self) -> IterationReport:
        """One iteration (section 7.2)."""
        clock = _PhaseClock()
        scoring = Scoring(self._actors, self._prompt_facts())
        responses = self._generation.take(self.iteration, scoring.begin, beside=scoring.unguarded)
        rollouts = responses.batch
        clock.end("rollout")
        scored, dropped, reward_metrics = self._finish_scores(scoring, rollouts)
        mean, scale = self._normalizer.moments(scored.scores_B)
        experience, described = make_experience(
            scored,
            self._config,
            score_scale=scale,
            score_mean=mean,
            kl_coefficient=self.kl_coefficient,
        )
        clock.end("score")
        policy, critic = self._update(experience)
        clock.end("update")
        self._generation.finish_next()
        clock.end("rollout")
        self._weights.push(self.iteration + 1)
        clock.end("weight_push")
        self.iteration += 1
        report = IterationReport(
            iteration=self.iteration,
            experience=described,
            scored=scored,
            kl_coefficient=self.kl_coefficient,
            policy=policy,
            critic=critic,
            num_responses=rollouts.num_rollouts,
            num_response_tokens=rollouts.num_response_tokens,
            num_tokens=int(rollouts.lengths_B.sum()),
            dropped=dropped,
            score_mean=mean,
            score_scale=scale,
            optional_metrics=responses.metrics | reward_metrics,
            seconds=clock.seconds,
        )
        self._adapt_kl_coefficient(report)
        return report

    @property
    def ahead(self) -> Responses | None:
        """Responses of the next iteration, where they were made during the last."""
        return self._generation.ahead

    def state(self) -> dict[str, object]:
        """What the next iteration depends on besides its number, the actors and `ahead`."""
        return {"kl_coefficient": self.kl_coefficient, "normalizer": self._normalizer.state()}

    def _prompt_facts(self) -> list[PromptFacts]:
        """Of the prompt of each response."""
        return self._inputs.prompts.facts(
            self.iteration,
            self._config.num_prompts,
            responses_per_prompt=self._config.responses_per_prompt,
        )

    def _finish_scores(
        self, scoring: Scoring, rollouts: RolloutBatch
    ) -> tuple[ScoredRollouts, list[dict[str, str]], dict[str, float]]:
        prompts_B = np.arange(rollouts.num_rollouts) // self._config.responses_per_prompt
        scored, scores = scoring.finish(rollouts, prompts_B, timeout_s=self._timeouts.score_s)
        most = self._rewards.max_failed_fraction
        kept, dropped = drop_failed(scored, scores.failures, max_failed_fraction=most)
        return kept, dropped, {reward_score(k): mean for k, mean in mean_parts(scores).items()}

    def _update(self, experience: Experience) -> tuple[UpdateReport | None, UpdateReport | None]:
        """Policy and critic side by side; the critic alone during its warm-up."""
        actors, limit_s = self._actors, self._timeouts.update_s
        plan = plan_minibatches(
            experience, self._config, seed=self._inputs.prompts.seed + self.iteration
        )
        warming_up = self.iteration < self._config.critic_warmup_iterations
        critic = actors.critic.call(CriticActor.update, experience, plan) if actors.critic else None
        policy = None if warming_up else actors.policy.call(PolicyActor.update, experience, plan)
        beside = [critic] if critic else []
        return (
            policy.wait(limit_s, beside=beside)[0] if policy else None,
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
    """Wall seconds of phases that follow each other, those of their parts added up."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = time.monotonic()

    def end(self, phase: str) -> None:
        """A phase, or a further part of one, since the last call or the start ends now."""
        now = time.monotonic()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._began
        self._began = now
