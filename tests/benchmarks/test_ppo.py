"""The floor of the PPO benchmark computes what our actors compute; its assets mean something."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.lean_decoder import LeanDecoder
from benchmarks.ppo import PHASES, medians, summary
from benchmarks.ppo_assets import (
    MOST_NEW_TOKENS,
    SEED,
    draw_conversation,
    encode_prompt,
    encode_reply,
    programmed_score,
    train_tokenizer,
)
from benchmarks.ppo_floor import ORDERS, Floor, Order
from moss.config.ppo import PPOConfig, SamplingParams
from moss.config.ppo_actors import TrainedActorConfig
from moss.experience import ScoredRollouts, make_experience, plan_minibatches
from moss.forward import evaluate_logprobs, evaluate_scores, evaluate_tokens, response_values
from moss.learner import Learner
from moss.models import PreferenceModel, ValueModel, load_policy, save_preference_model
from moss.part_losses import policy_part, value_part
from moss.ppo_inputs import PPOInputs
from moss.ppo_prompts import PromptSet
from moss.rollouts import RolloutBatch, SampleRequest
from moss.sampling import TransformersSampler


def test_the_lean_decoder_gives_the_responses_of_our_sampler(tiny_checkpoint: Path) -> None:
    torch.set_num_threads(1)
    policy = load_policy(tiny_checkpoint)
    requests = [
        SampleRequest(prompt_ids=[5 + row, 6, *range(20, 20 + row % 4)], seed=row)
        for row in range(12)
    ]
    params = SamplingParams(max_new_tokens=20)
    sampler, decoder = TransformersSampler(policy, pad_id=0), LeanDecoder(policy)
    free = sampler.generate(requests, params, [])
    stops = sorted({rollout.response_ids[row] for row, rollout in enumerate(free[:8])})
    expected = sampler.generate(requests, params, stops)
    assert len({len(rollout.response_ids) for rollout in expected}) > 4
    for ours, lean in zip(expected, decoder.generate(requests, params, stops), strict=True):
        assert lean.response_ids == ours.response_ids
        assert lean.finish_reason == ours.finish_reason
        assert lean.logprobs == pytest.approx(ours.logprobs, abs=1e-4)


def test_the_lean_decoder_samples_from_the_weights_it_took_last(tiny_checkpoint: Path) -> None:
    policy = load_policy(tiny_checkpoint)
    decoder = LeanDecoder(policy)
    requests = [SampleRequest(prompt_ids=[5, 6, 7], seed=1)]
    params = SamplingParams(max_new_tokens=8)
    before = decoder.generate(requests, params, [])
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.neg_()
    assert decoder.generate(requests, params, []) == before
    decoder.take_weights(policy)
    after = decoder.generate(requests, params, [])
    (expected,) = TransformersSampler(policy, pad_id=0).generate(requests, params, [])
    assert after[0].response_ids == expected.response_ids
    assert after != before


@pytest.fixture
def inputs(tiny_checkpoint: Path, tmp_path: Path) -> PPOInputs:
    preference = PreferenceModel.from_policy(tiny_checkpoint, seed=1)
    torch.nn.init.normal_(preference.value_head.weight, std=0.5)
    save_preference_model(tmp_path, preference, tokenizer_folder=None)
    prompts = tuple([5 + n, 6, *range(20, 20 + n % 4)] for n in range(20))
    return PPOInputs(
        policy=str(tiny_checkpoint),
        preference_model=str(tmp_path),
        prompts=PromptSet(tuple(map(str, range(20))), prompts, 0, seed=3),
        pad_id=0,
        stop_ids=tuple(range(30, 60)),
        score_scale=2.0,
    )


PPO = PPOConfig(
    num_rollouts=16,
    num_minibatches=2,
    micro_batch_size=4,
    policy_learning_rate=1e-3,
    critic_learning_rate=1e-3,
    warmup_ratio=0,
)
SAMPLING = SamplingParams(max_new_tokens=12)


def floor_models(inputs: PPOInputs, order: Order) -> tuple[nn.Module, nn.Module]:
    floor = Floor(inputs, PPO, SAMPLING, num_threads=2)
    assert floor.step(0, order).keys() == set(PHASES)
    return floor.policy, floor.critic


def our_models(inputs: PPOInputs) -> tuple[nn.Module, nn.Module]:
    """The same iteration with our sampler and learners."""
    policy, reference = load_policy(inputs.policy), load_policy(inputs.policy)
    critic = ValueModel.from_preference_model(inputs.preference_model)
    for parameter in critic.value_head.parameters():
        parameter.data /= inputs.score_scale
    sampler = TransformersSampler(policy, pad_id=inputs.pad_id)
    requests = inputs.prompts.batch(0, PPO.num_rollouts)
    rollouts = sampler.generate(requests, SAMPLING, inputs.stop_ids)
    batch = RolloutBatch.from_rollouts(rollouts, pad_id=inputs.pad_id)
    cpu = torch.device("cpu")
    scored = ScoredRollouts(
        rollouts=batch,
        prompts_B=np.arange(batch.num_rollouts),
        scores_B=evaluate_scores(
            PreferenceModel.load(inputs.preference_model), batch, device=cpu, max_rows=16
        ),
        logprobs_BT=evaluate_logprobs(policy, batch, temperature=1.0, max_rows=16),
        reference_logprobs_BT=evaluate_logprobs(reference, batch, temperature=1.0, max_rows=16),
        values_BT=evaluate_tokens(
            lambda tokens_BT, mask_BT: response_values(critic, tokens_BT, mask_BT),
            batch,
            device=cpu,
            max_rows=16,
        ),
    )
    experience, _ = make_experience(
        scored, PPO, score_scale=inputs.score_scale, kl_coefficient=PPO.kl_coefficient
    )
    plan = plan_minibatches(experience, PPO, seed=inputs.prompts.seed)
    for model, part in ((policy, policy_part(PPO, temperature=1.0)), (critic, value_part(PPO))):
        learner = Learner(model, PPO, TrainedActorConfig(), peak_learning_rate=1e-3, num_steps=2)
        learner.update(experience, plan, part)
    return policy, critic


def distance(one: nn.Module, other: nn.Module) -> float:
    """Mean difference of two models' parameters, in learning rates."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return float(torch.cat([(a - b).detach().abs().flatten() for a, b in pairs]).mean()) / 1e-3


def test_both_orders_of_the_floor_train_what_our_actors_train(inputs: PPOInputs) -> None:
    ours = our_models(inputs)
    start = load_policy(inputs.policy)
    for order in ORDERS:
        floor = floor_models(inputs, order)
        assert distance(floor[0], start) > 0.3
        # Adam's first steps are as large for gradients that are rounding errors.
        assert distance(floor[0], ours[0]) < 0.02
        assert distance(floor[1], ours[1]) < 0.02


def test_conversations_have_the_lengths_that_the_benchmark_promises() -> None:
    draw = random.Random(SEED)
    tokenizer = train_tokenizer(draw)
    conversations = [draw_conversation(draw) for _ in range(2000)]
    prompts = [len(encode_prompt(tokenizer, request)) for request, _ in conversations]
    replies = [len(encode_reply(tokenizer, reply)) for _, reply in conversations]
    assert (min(prompts), max(prompts)) == (11, 14)
    assert 12 < sum(replies) / len(replies) < 15
    assert 28 < max(replies) < MOST_NEW_TOKENS


def test_the_programmed_score_counts_adjectives_and_the_opening() -> None:
    assert programmed_score("the old clock is bright.") == 1
    assert programmed_score("Gladly! the warm boat is bright. the old boat is ugly.") == 1.5
    assert programmed_score("Go away! the warm boat is long.") == 0
    assert programmed_score("the ugly table is broken. I hope that helps!") == -2


def test_the_faster_order_is_the_floor() -> None:
    def row(*seconds: float) -> dict[str, float]:
        names = ("rollout", "score", "update", "weight_push")
        return dict(zip(names, seconds, strict=True))

    rows = {
        "ours": medians([row(1, 1, 2, 0.25), row(1, 2, 2, 0.25), row(9, 9, 9, 9)]),
        "in turn": medians([row(2, 1, 2, 0)]),
        "side by side": medians([row(2, 1, 1, 0)]),
    }
    assert rows["ours"] == row(1, 2, 2, 0.25) | {"iteration": 5.25, "fastest": 4.25}
    found = summary(rows, num_rollouts=21)
    assert found["floor_order"] == "side by side"
    assert found["floor_seconds"] == 4
    assert found["floor_ratio"] == pytest.approx(4 / 5.25, abs=1e-4)
    assert found["samples_per_s"] == 4
    assert found["sync_s"] == 0.25
