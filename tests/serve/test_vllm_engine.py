"""The vLLM engine of the service gives the tokens of the Transformers engine."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from moss.config.serve import EngineConfig
from serve.chat_model import ChatModel
from serve.engines import Engine, GenerateParams, TokenDelta

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(600)]
PROMPTS = [[3 + n, 4 + n, 5 + n] for n in range(4)]


async def ask(model: ChatModel | Engine, prompt: list[int]) -> list[int]:
    params = GenerateParams(max_new_tokens=16, stop_ids=())
    return [token async for delta in model.generate(prompt, params) for token in delta.ids]


async def test_vllm_streams_the_same_greedy_tokens_and_aborts_when_left(
    tiny_checkpoint: Path,
) -> None:
    reference = ChatModel(str(tiny_checkpoint), EngineConfig(kind="transformers"))
    expected = [await ask(reference, prompt) for prompt in PROMPTS]
    model = ChatModel(str(tiny_checkpoint), EngineConfig(kind="vllm", kv_cache_gib=0.1))
    try:
        assert await asyncio.gather(*(ask(model, prompt) for prompt in PROMPTS)) == expected
        stop = expected[0][5]
        stopped: list[TokenDelta] = []
        params = GenerateParams(max_new_tokens=16, stop_ids=(stop,))
        stopped = [delta async for delta in model.generate(PROMPTS[0], params)]
        assert stopped[-1].finish_reason == "stop"
        ids = [token for delta in stopped for token in delta.ids]
        assert ids == expected[0][: expected[0].index(stop)]
        leaving = model.generate(PROMPTS[0], GenerateParams(max_new_tokens=100, stop_ids=()))
        await anext(leaving)
        await leaving.aclose()
        started = time.monotonic()
        await model.check_health()
        assert time.monotonic() - started < 20
    finally:
        model._engine.close()  # type: ignore[attr-defined]
