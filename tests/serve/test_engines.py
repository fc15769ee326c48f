from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from moss.config.ppo import SamplingParams
from moss.rollouts import Rollout, SampleRequest
from moss.weight_files import WeightFile
from serve.engines import AsyncBatcher, GenerateParams

STOP = 9


class EchoSampler:
    """Answers a prompt with itself; remembers the size of each batch."""

    policy_version = 0

    def __init__(self) -> None:
        self.batches: list[int] = []

    def generate(
        self, requests: Sequence[SampleRequest], params: SamplingParams, stop_ids: Sequence[int]
    ) -> list[Rollout]:
        self.batches.append(len(requests))
        if any(request.prompt_ids == [13] for request in requests):
            raise ValueError("unlucky")
        return [
            Rollout(item.prompt_ids, [*item.prompt_ids, STOP], [0.0, 0.0], 0, "stop")
            for item in requests
        ]

    def push_weights(self, file: WeightFile) -> None:
        raise NotImplementedError

    def close(self) -> None:
        return None


async def ask(engine: AsyncBatcher, prompt: list[int], **changes: object) -> list[int]:
    params = GenerateParams(max_new_tokens=4, stop_ids=(STOP,), **changes)  # type: ignore[arg-type]
    return [token async for delta in engine.generate(prompt, params) for token in delta.ids]


async def test_concurrent_requests_share_batches_and_get_their_own_answers() -> None:
    sampler = EchoSampler()
    engine = AsyncBatcher(sampler, max_positions=64, max_batch=32)
    answers = await asyncio.gather(*(ask(engine, [number]) for number in range(100, 180)))
    assert answers == [[number] for number in range(100, 180)]
    assert sampler.batches == [32, 32, 16]


async def test_requests_with_other_parameters_run_in_batches_of_their_own() -> None:
    sampler = EchoSampler()
    engine = AsyncBatcher(sampler, max_positions=64)
    await asyncio.gather(ask(engine, [1]), ask(engine, [2], temperature=0.5), ask(engine, [3]))
    assert sorted(sampler.batches) == [1, 2]


async def test_a_failing_batch_fails_its_requests_and_no_later_one() -> None:
    engine = AsyncBatcher(EchoSampler(), max_positions=64)
    with pytest.raises(ValueError, match="unlucky"):
        await ask(engine, [13])
    assert await ask(engine, [5]) == [5]
