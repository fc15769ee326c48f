from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from moss.config.ppo import SamplingParams
from moss.errors import DataError
from moss.rollouts import SampleRequest
from moss.sampling import TransformersSampler
from serve.engines import GenerateParams
from serve.transformers_engine import TransformersEngine

PROMPT = [5, 6, 7, 8]


@pytest.fixture(scope="module")
def engine(tiny_checkpoint: Path) -> Iterator[TransformersEngine]:
    engine = TransformersEngine(AutoModelForCausalLM.from_pretrained(tiny_checkpoint))
    yield engine
    engine.close()


async def ask(
    engine: TransformersEngine, prompt: list[int], stop_ids: tuple[int, ...] = ()
) -> tuple[list[int], str | None]:
    params = GenerateParams(max_new_tokens=12, stop_ids=stop_ids)
    deltas = [delta async for delta in engine.generate(prompt, params)]
    return [token for delta in deltas for token in delta.ids], deltas[-1].finish_reason


async def test_greedy_tokens_equal_those_of_the_batched_sampler(
    engine: TransformersEngine, tiny_checkpoint: Path
) -> None:
    sampler = TransformersSampler(AutoModelForCausalLM.from_pretrained(tiny_checkpoint), pad_id=0)
    greedy = SamplingParams(temperature=0, max_new_tokens=12)
    (rollout,) = sampler.generate([SampleRequest(prompt_ids=PROMPT, seed=0)], greedy, [])
    assert await ask(engine, PROMPT) == (rollout.response_ids, "length")


async def test_a_stop_token_ends_the_answer_and_is_not_part_of_it(
    engine: TransformersEngine,
) -> None:
    whole, _ = await ask(engine, PROMPT)
    stop = whole[5]
    assert await ask(engine, PROMPT, (stop,)) == (whole[: whole.index(stop)], "stop")


async def test_requests_run_side_by_side_and_do_not_mix(engine: TransformersEngine) -> None:
    prompts = [[3 + n, 4 + n, 5 + n] for n in range(6)]
    alone = [await ask(engine, prompt) for prompt in prompts]
    assert await asyncio.gather(*(ask(engine, prompt) for prompt in prompts)) == alone


async def test_leaving_stops_decoding(engine: TransformersEngine) -> None:
    deltas = engine.generate(PROMPT, GenerateParams(max_new_tokens=100, stop_ids=()))
    await anext(deltas)
    await deltas.aclose()
    await ask(engine, PROMPT)  # the thread is free again


async def test_a_prompt_that_does_not_fit_is_refused(engine: TransformersEngine) -> None:
    for prompt in ([], [1] * 127):
        with pytest.raises(DataError, match="does not fit"):
            await ask(engine, prompt)
