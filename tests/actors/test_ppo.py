"""PPO over real actors: whole iterations, exact resume, and refusals before anything starts."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from actors.ppo_run import train_ppo
from moss.config.ppo import RolloutConfig, SamplingParams
from moss.config.ppo_actors import PPOActorsConfig, TrainedActorConfig
from moss.errors import ConfigError, ResourceError
from moss.models import load_policy
from moss.tracking import read_metrics
from tests.ppo_workspace import make_workspace, ppo_config, untimed


@pytest.fixture(scope="module")
def workspace(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs that PPO reads: policy, preference model, prompts."""
    return make_workspace(tmp_path_factory.mktemp("workspace"), tiny_checkpoint)


@pytest.mark.ray
@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_one_iteration_runs_with_four_actors_and_vllm(
    ray_cluster: None, workspace: Path, tmp_path: Path
) -> None:
    result = train_ppo(ppo_config(workspace, "vllm", num_iterations=1), str(tmp_path))
    ((step, metrics),) = read_metrics(str(tmp_path))
    assert step == 1
    assert metrics["rollout/kl_nats"] == pytest.approx(0.0, abs=1e-4)
    assert metrics["rollout/logprob_gap_nats"] < 1e-3
    assert metrics["ppo/policy_gradient_norm"] > 0
    assert metrics["time/weight_push_s"] < 2.0
    assert result.counts["rollouts"]["ok"] == 8
    before = load_policy(workspace / "MOSS-SFT" / "checkpoint").state_dict()
    after = load_policy(tmp_path / "checkpoint").state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_estimator_without_a_critic_starts_none_and_resumes_exactly(
    ray_cluster: None, workspace: Path, tmp_path: Path
) -> None:
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    config = ppo_config(
        workspace,
        "transformers",
        num_iterations=3,
        estimator="rloo",
        responses_per_prompt=4,
        kl_placement="loss",
        kl_estimator="k3",
    )
    train_ppo(config, str(whole))
    shutil.copytree(whole / "states" / "step-000002", resumed / "states" / "step-000002")
    shutil.copy(whole / "metrics.jsonl", resumed)
    assert not (resumed / "states" / "step-000002" / "critic").exists()
    train_ppo(config, str(resumed))
    assert untimed(whole) == untimed(resumed)
    _, metrics = read_metrics(str(whole))[-1]
    assert metrics["ppo/policy_gradient_norm"] > 0
    assert "ppo/value_loss_squared_score" not in metrics


@pytest.mark.ray
def test_a_cluster_that_is_too_small_is_refused_with_the_sum(
    ray_cluster: None, workspace: Path, tmp_path: Path
) -> None:
    config = ppo_config(workspace, "transformers", num_iterations=1)
    large = config.model_copy(
        update={"actors": PPOActorsConfig(policy=TrainedActorConfig(num_cpus=64))}
    )
    with pytest.raises(ResourceError, match=r"65 CPU.*policy 1 x \(64 CPU, 0 GPU\)|policy 1 x"):
        train_ppo(large, str(tmp_path))


def test_a_response_that_does_not_fit_the_model_is_refused_with_the_sum(
    workspace: Path, tmp_path: Path
) -> None:
    config = ppo_config(workspace, "transformers", num_iterations=1)
    long = config.model_copy(
        update={"rollout": RolloutConfig(sampling=SamplingParams(max_new_tokens=64))}
    )
    with pytest.raises(ConfigError, match=r"512 \+ max_new_tokens=64 = 576 .* 128 positions"):
        train_ppo(long, str(tmp_path))
