"""A workspace that PPO can start from, with tiny models; configs and comparisons of its runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from moss.chat import Conversation, Turn
from moss.config.base import StageConfig
from moss.config.monitors import Ceiling, MonitorsConfig
from moss.config.ppo import PPOConfig, RolloutConfig, TrainPPOConfig
from moss.lineage import Run
from moss.meta_instruction import MetaInstruction
from moss.models import PreferenceModel, save_preference_model
from moss.storage import write_rows
from moss.tracking import read_metrics

QUESTIONS = ["What is the capital of France?", "Calculate 12+7.", "请计算12加7等于多少?"]


def make_workspace(folder: Path, tiny_checkpoint: Path) -> Path:
    """Finished runs that PPO reads: policy, preference model, prompts."""
    shutil.copytree(tiny_checkpoint, folder / "MOSS-SFT" / "checkpoint")
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
    outputs = {"MOSS-SFT": "checkpoint", "preference-model": "checkpoint", "MOSS-PAT": "data"}
    for run_id, output in outputs.items():
        config = StageConfig(workspace=str(folder), run_id=run_id)
        with Run.open(config, "made_for_a_test", inputs={}) as run:
            run.finish(outputs=[output], counts={})
    return folder


def ppo_config(
    workspace: Path, engine: str, num_iterations: int, **changes: object
) -> TrainPPOConfig:
    """Two minibatches of four responses; `changes` are of `PPOConfig`."""
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
        # A random model at this learning rate runs away at once; what stops runs is tested apart.
        monitors=MonitorsConfig(kl_nats=Ceiling(warn=None, stop=None)),
    )


def untimed(run: Path) -> list[tuple[int, dict[str, float]]]:
    """Metrics of a run without those that tell how long it took and what befell it."""
    return [
        (step, {k: v for k, v in metrics.items() if not k.startswith(("time/", "faults/"))})
        for step, metrics in read_metrics(str(run))
    ]
