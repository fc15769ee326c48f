"""Rollout actors: vLLM and Transformers pass the same tests, and weights arrive or are refused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from actors.group import ActorGroup
from actors.rollout import Part, RolloutActor
from moss.chat_rendering import ChatRenderer
from moss.config.ppo import RolloutConfig, SamplingParams, VLLMConfig
from moss.config.ppo_actors import ActorConfig
from moss.config.rollout import ToolRolloutConfig
from moss.errors import DataError, WaitTimeoutError, WeightSyncError
from moss.forward import evaluate_logprobs, likeliest_logprob
from moss.models import load_policy
from moss.rollouts import Opening, Rollout, RolloutBatch, SampleRequest
from moss.sampling import TransformersSampler, in_order
from moss.tokenizer import MossTokenizer
from moss.tool_rollouts import ToolRollouts
from moss.tools.runner import ToolRunner
from moss.weight_files import WeightFile, WeightProbe, write_weights

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ACTOR = ActorConfig(num_cpus=0.25)
GREEDY = SamplingParams(temperature=0.0, max_new_tokens=16)
RANDOM = SamplingParams(temperature=0.9, max_new_tokens=16)
REQUESTS = [SampleRequest([5 + row, 7, *range(30, 30 + 2 * row)], seed=row) for row in range(8)]


class Engine:
    """A rollout actor of one kind, with rising weight versions."""

    def __init__(self, kind: Literal["vllm", "transformers"], checkpoint: Path) -> None:
        self.group = ActorGroup.start("rollout", ACTOR, RolloutActor, ACTOR)
        config = RolloutConfig(
            engine=kind,
            sampling=RANDOM,
            max_prompt_tokens=100,
            vllm=VLLMConfig(kv_cache_gib=0.05),
        )
        self.group.call(RolloutActor.load, str(checkpoint), config, pad_id=0).only(240)
        self.version = -1

    def push(self, weights: dict[str, torch.Tensor], folder: Path) -> None:
        self.version += 1
        file = write_weights(weights, str(folder), version=self.version)
        assert self.receive(file) == self.version

    def receive(self, file: WeightFile) -> int:
        return self.group.call(RolloutActor.receive_weights, file).only(60)

    def generate(
        self, params: SamplingParams, stop_ids: list[int], requests: list[SampleRequest] = REQUESTS
    ) -> list[Rollout]:
        call = self.group.call(RolloutActor.generate, requests, params, stop_ids, self.version)
        return in_order(call.only(60).items())


@pytest.fixture(
    scope="module", params=["transformers", pytest.param("vllm", marks=pytest.mark.vllm)]
)
def engine(
    request: pytest.FixtureRequest, ray_cluster: None, tiny_checkpoint: Path
) -> Iterator[Engine]:
    started = Engine(request.param, tiny_checkpoint)
    yield started
    started.group.stop()


def moved_weights(checkpoint: Path, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    policy = load_policy(checkpoint)
    for parameter in policy.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return dict(policy.state_dict())


def oracle(
    checkpoint: Path, weights: dict[str, torch.Tensor], params: SamplingParams
) -> list[Rollout]:
    policy = load_policy(checkpoint)
    policy.load_state_dict(weights)
    return TransformersSampler(policy, pad_id=0).generate(REQUESTS, params, [])


def test_nothing_is_sampled_before_the_first_push(engine: Engine) -> None:
    if engine.version >= 0:
        pytest.skip("another test has pushed weights already")
    with pytest.raises(WeightSyncError, match="version 0 were asked for, version -1 is loaded"):
        engine.group.call(RolloutActor.generate, REQUESTS, GREEDY, [], 0).only(60)


def test_greedy_tokens_and_logprobs_equal_transformers_after_every_push(
    engine: Engine, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    seen: list[list[list[int]]] = []
    for seed in range(3):
        weights = moved_weights(tiny_checkpoint, seed)
        engine.push(weights, tmp_path)
        rollouts = engine.generate(GREEDY, [])
        for ours, theirs in zip(oracle(tiny_checkpoint, weights, GREEDY), rollouts, strict=True):
            assert theirs.response_ids == ours.response_ids
            assert theirs.logprobs == pytest.approx(ours.logprobs, abs=1e-3)
            assert theirs.policy_version == engine.version
        seen.append([rollout.response_ids for rollout in rollouts])
    assert seen[0] != seen[1] != seen[2]


def test_sampled_logprobs_are_those_of_the_distribution_drawn_from(
    engine: Engine, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    weights = moved_weights(tiny_checkpoint, 5)
    engine.push(weights, tmp_path)
    policy = load_policy(tiny_checkpoint)
    policy.load_state_dict(weights)
    for top_p in (1.0, 0.6):
        params = RANDOM.model_copy(update={"top_p": top_p})
        for rollout in engine.generate(params, []):
            ids = list(rollout.prompt_ids)
            for token, logprob in zip(rollout.response_ids, rollout.logprobs, strict=True):
                with torch.no_grad():
                    logits = policy(input_ids=torch.tensor([ids])).logits[0, -1]
                expected = nucleus_logprobs(logits / params.temperature, top_p)
                assert logprob == pytest.approx(float(expected[token]), abs=1e-2)
                ids.append(token)


def nucleus_logprobs(logits: torch.Tensor, top_p: float) -> torch.Tensor:
    """Plain form: take tokens from the likeliest on until their sum reaches `top_p`."""
    probabilities = torch.softmax(logits.double(), -1)
    kept, total = torch.zeros_like(probabilities), 0.0
    for token in probabilities.argsort(descending=True).tolist():
        if total >= top_p:
            break
        kept[token] = probabilities[token]
        total += float(probabilities[token])
    return (kept / kept.sum()).log()


def test_responses_depend_on_their_seeds_and_not_on_their_batch(
    engine: Engine, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    engine.push(moved_weights(tiny_checkpoint, 6), tmp_path)
    together = engine.generate(RANDOM, [])
    alone = [engine.generate(RANDOM, [], [request])[0] for request in REQUESTS]
    assert [r.response_ids for r in together] == [r.response_ids for r in alone]
    other = [SampleRequest(r.prompt_ids, r.seed + 50) for r in REQUESTS]
    assert together != engine.generate(RANDOM, [], other)


def test_a_response_holds_its_stop_token_and_ends_there(
    engine: Engine, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    engine.push(moved_weights(tiny_checkpoint, 7), tmp_path)
    free = engine.generate(RANDOM, [])
    stops = [free[1].response_ids[3], free[5].response_ids[0]]
    for before, rollout in zip(free, engine.generate(RANDOM, stops), strict=True):
        ends = [i for i, token in enumerate(before.response_ids) if token in stops]
        length = ends[0] + 1 if ends else RANDOM.max_new_tokens
        assert rollout.response_ids == before.response_ids[:length]
        assert rollout.finish_reason == ("stop" if ends else "length")


def test_requests_may_have_limits_of_their_own(
    engine: Engine, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    engine.push(moved_weights(tiny_checkpoint, 14), tmp_path)
    limited = [replace(request, max_new_tokens=1 + 3 * row) for row, request in enumerate(REQUESTS)]
    lengths = [len(rollout.response_ids) for rollout in engine.generate(RANDOM, [], limited)]
    assert lengths == [1 + 3 * row for row in range(len(REQUESTS))]


class ActorSampler:
    """The sampler of a rollout actor, asked from here."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def policy_version(self) -> int:
        return self._engine.version

    def generate(
        self, requests: Sequence[SampleRequest], params: SamplingParams, stop_ids: Sequence[int]
    ) -> list[Rollout]:
        return self._engine.generate(params, list(stop_ids), list(requests))

    def push_weights(self, file: WeightFile) -> None:
        raise AssertionError("pushed by the test itself")

    def close(self) -> None:
        return


def test_sections_of_tool_rollouts_have_the_logprobs_of_the_whole(
    engine: Engine, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    weights = moved_weights(tiny_checkpoint, 15)
    engine.push(weights, tmp_path)
    config = ToolRolloutConfig(max_rounds=1, max_thought_tokens=12, max_command_tokens=12)
    runner = ToolRunner(config, concurrency=1)
    renderer = ChatRenderer(MossTokenizer.load(tiny_checkpoint))
    rollouts = ToolRollouts(ActorSampler(engine), renderer, runner, config)
    rollouts._ends = [*rollouts._ends, *range(100, 200)]  # a random policy seldom ends a section
    opening = Opening("inner_thoughts", frozenset({"calculator"}))
    asked = [replace(r, opening=opening) for r in REQUESTS]
    found = in_order(rollouts.stream(asked, RANDOM))
    runner.close()
    assert any(len(rollout.inserted) == 2 for rollout in found)
    batch = RolloutBatch.from_rollouts(found, pad_id=0)
    policy = load_policy(tiny_checkpoint)
    policy.load_state_dict(weights)
    logprobs_BT = evaluate_logprobs(policy, batch, temperature=RANDOM.temperature, max_rows=8)
    assert np.allclose(logprobs_BT, batch.rollout_logprobs_BT, atol=1e-2)


def test_parts_are_the_whole_in_the_order_in_which_responses_end(
    engine: Engine, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    engine.push(moved_weights(tiny_checkpoint, 16), tmp_path)
    limited = [replace(r, max_new_tokens=1 + 5 * row % 8) for row, r in enumerate(REQUESTS)]

    def ask(part: Part, requests: list[SampleRequest] = limited) -> dict[int, Rollout]:
        call = engine.group.call(RolloutActor.generate, requests, RANDOM, [], engine.version, part)
        return call.only(60)

    whole = engine.generate(RANDOM, [], limited)
    parts = [ask(Part(number, 3)) for number in range(3)]
    rows = [row for part in parts for row in part]
    assert [len(part) for part in parts] == [2, 3, 3]
    assert [len(whole[row].response_ids) for row in rows] == list(range(1, 9))
    assert in_order((row, found) for part in parts for row, found in part.items()) == whole
    ask(Part(0, 3), REQUESTS)
    assert ask(Part(1, 3)) == parts[1]  # left in the midst, and begun in the midst
    engine.push(moved_weights(tiny_checkpoint, 17), tmp_path)
    assert ask(Part(2, 3)).keys() == parts[2].keys()


def test_stale_altered_and_foreign_weights_are_refused(
    engine: Engine, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    weights = moved_weights(tiny_checkpoint, 8)
    engine.push(weights, tmp_path)
    before = engine.generate(GREEDY, [])
    stale = write_weights(weights, str(tmp_path), version=engine.version)
    with pytest.raises(WeightSyncError, match="samples already"):
        engine.receive(stale)
    altered = write_weights(weights, str(tmp_path), version=engine.version + 1)
    write_weights(moved_weights(tiny_checkpoint, 9), str(tmp_path), version=engine.version + 1)
    with pytest.raises(WeightSyncError, match="altered or replaced"):
        engine.receive(altered)
    foreign = {name: value for name, value in weights.items() if "norm" not in name}
    with pytest.raises(WeightSyncError, match="norm"):
        engine.receive(write_weights(foreign, str(tmp_path), version=engine.version + 1))
    with pytest.raises(WeightSyncError, match="asked for"):
        engine.group.call(RolloutActor.generate, REQUESTS, GREEDY, [], 99).only(60)
    assert engine.generate(GREEDY, []) == before


def test_weights_that_do_not_take_effect_are_refused_and_never_sampled(
    engine: Engine, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    engine.push(moved_weights(tiny_checkpoint, 11), tmp_path)
    weights = moved_weights(tiny_checkpoint, 12)
    policy = load_policy(tiny_checkpoint)
    policy.load_state_dict(weights)
    right = likeliest_logprob(policy, [5, 6, 7])
    engine.version += 1
    for logprob, arrives in ((right + 0.05, False), (right, True)):
        probe = WeightProbe([5, 6, 7], logprob)
        file = write_weights(weights, str(tmp_path), version=engine.version, probe=probe)
        if arrives:
            assert engine.receive(file) == engine.version
            continue
        with pytest.raises(WeightSyncError, match="did not take effect"):
            engine.receive(file)
        with pytest.raises(WeightSyncError, match="version -1 is loaded"):
            engine.generate(GREEDY, [])


def test_many_long_prompts_at_once_keep_their_seeds(
    engine: Engine, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    engine.push(moved_weights(tiny_checkpoint, 13), tmp_path)
    requests = [SampleRequest([5 + row % 50] * 90, seed=row) for row in range(40)]
    together = engine.generate(RANDOM, [], requests)
    assert together[-1].response_ids == engine.generate(RANDOM, [], requests[-1:])[0].response_ids


def test_prompts_without_room_are_refused(
    engine: Engine, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    engine.push(moved_weights(tiny_checkpoint, 10), tmp_path)
    with pytest.raises(DataError, match="max_new_tokens=16"):
        engine.generate(GREEDY, [], [SampleRequest([3] * 150, 0)])


class Sleeper:
    """An actor that never answers in time."""

    def nap(self, seconds: float) -> float:
        from time import sleep

        sleep(seconds)
        return seconds


def test_a_wait_that_runs_out_names_group_method_and_seconds(ray_cluster: None) -> None:
    group = ActorGroup.start("sleeper", ActorConfig(num_cpus=0.1), Sleeper)
    group.call(Sleeper.nap, 0.0).only(60)
    with pytest.raises(WaitTimeoutError, match=r"sleeper\[0\]\.nap gave no answer within 0\.2 s"):
        group.call(Sleeper.nap, 30.0).wait(0.2)
    group.stop()
