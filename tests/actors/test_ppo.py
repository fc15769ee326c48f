"""PPO over real actors: whole iterations, exact resume, and refusals before anything starts."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from actors.ppo_run import train_ppo
from moss.chat import Conversation, Turn
from moss.config.ppo import PPOConfig, RolloutConfig, SamplingParams, TrainPPOConfig
from moss.config.ppo_actors import PPOActorsConfig, TrainedActorConfig
from moss.errors import ConfigError, ResourceError
from moss.meta_instruction import MetaInstruction
from moss.models import PreferenceModel, load_policy, save_preference_model
from moss.storage import write_rows
from moss.tracking import read_metrics

QUESTIONS = ["What is the capital of France?", "Calculate 12+7.", "请计算12加7等于多少?"]


@pytest.fixture(scope="module")
def workspace(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs that PPO reads: policy, preference model, prompts."""
    folder = tmp_path_factory.mktemp("workspace")
    (folder / "MOSS-SFT").mkdir()
    (folder / "MOSS-SFT" / "checkpoint").symlink_to(tiny_checkpoint)
    preference = PreferenceModel.from_policy(tiny_checkpoint, seed=1)
    torch.nn.init.normal_(preference.value_head.weight, std=0.05)
    preference.score_std = 2.0
    checkpoint = folder / "preference-model" / "checkpoint"
    save_preference_model(checkpoint, preference, tokenizer_folder=tiny_checkpoint)
    rows = [
        {
            "id": f"prompt-{index}",
            "conversation": Conversation(
                MetaInstruction("tiny"), (Turn(QUESTIONS[index % 3] + "?" * index, ""),)
            ).to_json(),
        }
        for index in range(10)
    ]
    write_rows(str(folder / "MOSS-PAT" / "data" / "prompts.parquet"), rows)
    return folder


def ppo_config(
    workspace: Path, engine: str, num_iterations: int, **changes: object
) -> TrainPPOConfig:
    return TrainPPOConfig(
        workspace=str(workspace),
        num_iterations=num_iterations,
        checkpoint_every=2,
        ppo=PPOConfig.model_validate(
            {
                "num_rollouts": 8,
                "num_minibatches": 2,
                "micro_batch_size": 3,
                "policy_learning_rate": 1e-3,
                "critic_learning_rate": 1e-3,
            }
            | changes
        ),
        rollout=RolloutConfig.model_validate(
            {
                "engine": engine,
                "max_prompt_tokens": 100,
                "sampling": {"max_new_tokens": 12},
                "vllm": {"kv_cache_gib": 0.05, "max_num_seqs": 8},
            }
        ),
    )


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
def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(
    ray_cluster: None, workspace: Path, tmp_path: Path
) -> None:
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    config = ppo_config(workspace, "transformers", num_iterations=4, kl_target=0.1, kl_horizon=8)
    train_ppo(config, str(whole))
    # What a run that was killed in iteration 3 leaves: the state and metrics of iteration 2.
    shutil.copytree(whole / "states" / "step-000002", resumed / "states" / "step-000002")
    shutil.copy(whole / "metrics.jsonl", resumed)
    train_ppo(config, str(resumed))
    expected = load_policy(whole / "checkpoint").state_dict()
    continued = load_policy(resumed / "checkpoint").state_dict()
    assert all(torch.equal(expected[name], continued[name]) for name in expected)
    assert untimed(whole) == untimed(resumed)
    betas = {metrics["ppo/kl_coefficient"] for _, metrics in read_metrics(str(whole))}
    assert len(betas) == 4


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


def untimed(run: Path) -> list[tuple[int, dict[str, float]]]:
    return [
        (step, {k: v for k, v in metrics.items() if not k.startswith("time/")})
        for step, metrics in read_metrics(str(run))
    ]


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
