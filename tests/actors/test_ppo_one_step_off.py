"""PPO whose responses come an iteration ahead equals a slow loop in one process, faults or none."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.critic import CriticActor
from actors.policy import PolicyActor
from actors.ppo_run import train_ppo
from actors.reference import ReferenceActor
from actors.reward import RewardActor
from actors.rollout import RolloutActor
from moss.config.ppo import TrainPPOConfig
from moss.experience import ScoredRollouts, UpdateReport, make_experience, plan_minibatches
from moss.models import load_policy
from moss.ppo_inputs import PPOInputs, load_inputs
from moss.rollouts import RolloutBatch
from moss.sampling import in_order
from moss.tracking import read_metrics
from tests.actors.test_ppo import workspace
from tests.actors.test_ppo_faults import break_actors
from tests.ppo_workspace import ppo_config

__all__ = ["workspace"]

NUM_ITERATIONS = 4


class SlowLoop:
    """The same order of computations in this process, one after the other."""

    def __init__(self, config: TrainPPOConfig, inputs: PPOInputs, folder: Path) -> None:
        self._config, self._inputs, self._folder = config, inputs, folder
        ppo, actors = config.ppo, config.actors
        num_steps = ppo.num_optimizer_steps(NUM_ITERATIONS)
        self.policy = PolicyActor(actors.policy)
        self.policy.load(inputs.policy, ppo, num_steps=num_steps, temperature=1.0)
        self._critic = CriticActor(actors.critic)
        self._critic.load(
            inputs.preference_model, ppo, num_steps=num_steps, score_scale=inputs.score_scale
        )
        self._reference = ReferenceActor(actors.reference)
        self._reference.load(inputs.policy, temperature=1.0, max_rows=ppo.micro_batch_size)
        self._reward = RewardActor(actors.reward)
        self._reward.load(
            config.rewards,
            preference_model=inputs.preference_model,
            policy=inputs.policy,
            max_rows=ppo.micro_batch_size,
            keys={},
        )
        self._rollout = RolloutActor(actors.rollout)
        self._rollout.load(inputs.policy, config.rollout, pad_id=inputs.pad_id)

    def run(self) -> list[tuple[float, UpdateReport, list[int]]]:
        """Score, update of the policy and versions of the responses, iteration by iteration."""
        self._push(0)
        responses = self._generate(0, version=0)
        told: list[tuple[float, UpdateReport, list[int]]] = []
        for iteration in range(NUM_ITERATIONS):
            versions = sorted({int(version) for version in responses.policy_versions_B})
            following = self._generate(iteration + 1, version=iteration)
            scored = self._score(iteration, responses)
            experience, report = make_experience(
                scored,
                self._config.ppo,
                score_scale=self._inputs.score_scale,
                kl_coefficient=self._config.ppo.kl_coefficient,
            )
            plan = plan_minibatches(
                experience, self._config.ppo, seed=self._inputs.prompts.seed + iteration
            )
            self._critic.update(experience, plan)
            told.append((report.score, self.policy.update(experience, plan), versions))
            self._push(iteration + 1)
            responses = following
        return told

    def _push(self, version: int) -> None:
        file = self.policy.publish(str(self._folder), version, self._inputs.prompts.prompts[0])
        assert file is not None
        self._rollout.receive_weights(file)

    def _generate(self, iteration: int, *, version: int) -> RolloutBatch:
        requests = self._inputs.prompts.batch(iteration, self._config.ppo.num_prompts)
        sampling = self._config.rollout.sampling
        found = self._rollout.generate(requests, sampling, self._inputs.stop_ids, version)
        return RolloutBatch.from_rollouts(in_order(found.items()), pad_id=self._inputs.pad_id)

    def _score(self, iteration: int, rollouts: RolloutBatch) -> ScoredRollouts:
        facts = self._inputs.prompts.facts(iteration, self._config.ppo.num_prompts)
        scores = self._reward.score((rollouts, facts))
        assert not scores.failures
        return ScoredRollouts(
            rollouts=rollouts,
            prompts_B=np.arange(rollouts.num_rollouts),
            scores_B=scores.scores_B,
            logprobs_BT=self.policy.logprobs(rollouts),
            reference_logprobs_BT=self._reference.logprobs(rollouts),
            values_BT=self._critic.values(rollouts),
        )


FAULTS: Sequence[str] = (
    "1-rollout-killed",  # while the weights it samples with are being replaced in the policy
    "2-policy-killed",  # after its step: back to the state of iteration 2, whose responses it holds
)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_ahead_equals_a_slow_loop_through_a_lost_engine_and_a_resume(
    ray_cluster: None,
    workspace: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = ppo_config(
        workspace, "transformers", num_iterations=NUM_ITERATIONS, importance_cap=2.0
    )
    ahead = config.rollout.model_copy(update={"one_step_off": True})
    config = config.model_copy(update={"rollout": ahead})
    faults = tmp_path / "faults"
    faults.mkdir()
    for fault in FAULTS:
        (faults / fault).touch()
    break_actors(faults, monkeypatch)
    run = tmp_path / "run"
    with caplog.at_level(logging.WARNING):
        train_ppo(config, str(run))
    assert list(faults.iterdir()) == []
    text = caplog.text
    assert "rollout[0] is started anew (restart 1 of at most 10)" in text
    assert "from the last training state (resume 1 of at most 3): actor policy[0] died" in text
    assert "importance_cap" not in text, "it is set, so there is nothing to warn of"
    assert (run / "states" / "step-000002" / "ahead.npz").is_file()
    assert not (run / "states" / "step-000004" / "ahead.npz").exists()

    loop = SlowLoop(config, load_inputs(config), tmp_path)
    told = loop.run()
    assert [versions for _, _, versions in told] == [[0], [0], [1], [2]]
    metrics = [figures for _, figures in read_metrics(str(run))]
    assert [figures["rollout/staleness_versions"] for figures in metrics] == [0, 1, 1, 1]
    for figures, (score, update, _) in zip(metrics, told, strict=True):
        assert figures["rollout/score"] == score
        assert figures["ppo/policy_loss_score"] == update.loss
        assert figures["ppo/policy_gradient_norm"] == update.gradient_norm
    assert metrics[1]["rollout/logprob_gap_nats"] > 100 * metrics[0]["rollout/logprob_gap_nats"]
    loop.policy.save_checkpoint(str(tmp_path / "expected"))
    ours, theirs = (
        load_policy(f).state_dict() for f in (run / "checkpoint", tmp_path / "expected")
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
