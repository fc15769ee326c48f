"""A PPO run's plan against the actors' own work."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from moss.batch_plan import plan_batches
from moss.config.model import ModelConfig
from moss.config.ppo import TrainPPOConfig
from moss.experience import plan_minibatches
from moss.learner import Learner
from moss.model_shapes import ModelShape
from moss.models import ValueModel, build_policy
from moss.part_losses import policy_part, value_part
from moss.ppo_plan import GIB, Models, plan_kv_cache, plan_memory
from moss.rollouts import CriticTargets, Experience, Rollout, RolloutBatch, length_sorted_groups
from tests.moss.live_tensors import LiveTensors

SHAPE = ModelShape(
    ModelConfig(hidden_size=64, num_layers=3, num_heads=4, intermediate_size=192), 384, "test"
)
MODELS = Models(SHAPE, SHAPE)


def config(**changes: object) -> TrainPPOConfig:
    base: dict[str, object] = {
        "ppo": {"num_rollouts": 12, "num_minibatches": 2, "num_epochs": 3, "micro_batch_size": 4},
        "rollout": {"max_prompt_tokens": 24, "sampling": {"max_new_tokens": 8}},
    }
    return TrainPPOConfig.model_validate(base | changes)


def longest_experience(ppo: TrainPPOConfig) -> Experience:
    """Rollouts of the longest kind that the config allows."""
    rollout, drawn = ppo.rollout, np.random.default_rng(0)
    num_prompt, num_response = rollout.max_prompt_tokens, rollout.sampling.max_new_tokens
    batch = RolloutBatch.from_rollouts(
        [
            Rollout(
                prompt_ids=drawn.integers(2, SHAPE.vocab_size, num_prompt).tolist(),
                response_ids=drawn.integers(2, SHAPE.vocab_size, num_response).tolist(),
                logprobs=[-1.0] * num_response,
                policy_version=0,
                finish_reason="length",
            )
            for _ in range(ppo.ppo.num_rollouts)
        ],
        pad_id=0,
    )
    drawn_BT = [drawn.normal(size=batch.tokens_BT.shape).astype(np.float32) for _ in range(5)]
    logprobs_BT, reference_logprobs_BT, advantages_BT, *critic = drawn_BT
    return Experience(
        batch,
        logprobs_BT,
        reference_logprobs_BT,
        advantages_BT,
        CriticTargets(*critic),
        kl_loss_coefficient=0.0,
    )


def test_the_iteration_is_cut_as_the_update_cuts_it() -> None:
    ppo = config()
    experience, batches = longest_experience(ppo), plan_batches(ppo)
    minibatches = plan_minibatches(experience, ppo.ppo, seed=0)
    assert len(minibatches) == batches.optimizer_steps == 6
    assert {len(rows) for rows in minibatches} == {batches.minibatch_rollouts} == {6}
    groups = length_sorted_groups(experience.rollouts.lengths_B[minibatches[0]], max_rows=4)
    assert len(groups) == batches.micro_batches == 2
    assert max(map(len, groups)) == batches.micro_batch_rollouts == 3
    assert experience.rollouts.tokens_BT.size == batches.tokens
    assert experience.rollouts.num_response_tokens == batches.response_tokens


@pytest.mark.parametrize("role", ["policy", "critic"])
@pytest.mark.parametrize("num_new", [1, 24])
def test_a_whole_update_takes_what_is_planned_for_its_role(role: str, num_new: int) -> None:
    """With one short row a step the flat gradients outweigh the activations."""
    ppo = config(
        ppo={
            "num_rollouts": 4 if num_new > 1 else 1,
            "micro_batch_size": 4,
            "max_first_ratio_gap": 1e9,  # the logprobs are drawn, not computed
        },
        rollout={"max_prompt_tokens": num_new, "sampling": {"max_new_tokens": num_new}},
    )
    policy = build_policy(SHAPE.model, vocab_size=384, pad_id=0, eos_id=1, seed=0)
    model = policy if role == "policy" else ValueModel(policy.base_model)
    part = policy_part(ppo.ppo, temperature=1.0) if role == "policy" else value_part(ppo.ppo)
    experience = longest_experience(ppo)
    rows = [list(range(ppo.ppo.num_rollouts))]
    with LiveTensors(model.buffers()) as live:
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
        learner = Learner(model, ppo.ppo, ppo.actors.policy, peak_learning_rate=1e-3, num_steps=9)
        for _ in range(3):
            learner.update(experience, rows, part)
    planned = plan_memory(ppo, MODELS)[role].num_device_bytes
    # Adam counts its steps in one number for each tensor.
    measured = live.peak_bytes - 4 * len(list(model.parameters()))
    assert measured <= planned <= 1.35 * measured


def test_a_rank_scores_its_share_of_the_rollouts() -> None:
    alone = plan_memory(config(), MODELS)["reference"].device
    shared = {"reference": {"num_ranks": 6}, "reward": {"num_ranks": 6}}
    among_six = plan_memory(config(actors=shared), MODELS)["reference"].device
    assert among_six["weights"] == alone["weights"]
    assert 2 * among_six["activations"] == alone["activations"]  # two rows instead of four
    assert 2 * among_six["logits"] == alone["logits"]


def test_vllm_takes_its_fixed_cache_and_transformers_what_the_batch_needs() -> None:
    rollout = {"max_prompt_tokens": 24, "sampling": {"max_new_tokens": 8}}
    fixed = plan_kv_cache(
        config(rollout=rollout | {"vllm": {"kv_cache_gib": 0.5, "max_num_seqs": 5}}), SHAPE
    )
    assert (fixed.num_bytes, fixed.num_sequences) == (GIB // 2, 5)
    assert fixed.num_fitting == GIB // 2 // fixed.sequence_bytes
    grown = plan_kv_cache(config(rollout=rollout | {"engine": "transformers"}), SHAPE)
    assert (grown.num_sequences, grown.num_fitting) == (12, 12)
    policy = build_policy(SHAPE.model, vocab_size=384, pad_id=0, eos_id=1, seed=0)
    with torch.inference_mode():
        cache = policy(torch.zeros(12, 32, dtype=torch.long), use_cache=True).past_key_values
    assert grown.num_bytes == sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


def test_a_run_without_a_critic_plans_for_none() -> None:
    groups = {"estimator": "rloo", "responses_per_prompt": 4, "num_rollouts": 12}
    ppo = config(ppo=groups)
    assert set(plan_memory(config(), MODELS)) - set(plan_memory(ppo, MODELS)) == {"critic"}
    assert (plan_batches(ppo).num_prompts, plan_batches(ppo).responses_per_prompt) == (3, 4)
