"""The floor of the PPO benchmark computes what our actors compute; its assets mean something."""

import random
from pathlib import Path

import pytest
import torch

from benchmarks.lean_decoder import LeanDecoder
from benchmarks.ppo import medians, summary
from benchmarks.ppo_assets import (
    MOST_NEW_TOKENS,
    SEED,
    draw_conversation,
    encode_prompt,
    encode_reply,
    programmed_score,
    train_tokenizer,
)
from moss.config.ppo import SamplingParams
from moss.models import load_policy
from moss.rollouts import SampleRequest
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
    assert rows["ours"] == {
        "rollout": 1, "score": 2, "update": 2, "weight_push": 0.25, "iteration": 5.25,
    }  # fmt: skip
    found = summary(rows, num_rollouts=21)
    assert found["floor_order"] == "side by side"
    assert found["floor_seconds"] == 4
    assert found["floor_ratio"] == pytest.approx(4 / 5.25, abs=1e-4)
    assert found["samples_per_s"] == 4
    assert found["sync_s"] == 0.25
