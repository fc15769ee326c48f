from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from moss.config.serve import EngineConfig
from moss.errors import DataError
from serve.chat_model import ChatModel, joined
from serve.engines import GenerateParams, TokenDelta


class MortalEngine:
    """Makes two tokens; dead, it fails at the second."""

    max_positions = 10

    def __init__(self) -> None:
        self.alive = True
        self.num_asked = 0

    async def generate(
        self, prompt_ids: list[int], params: GenerateParams
    ) -> AsyncGenerator[TokenDelta]:
        self.num_asked += 1
        yield TokenDelta([1])
        if not self.alive:
            raise DataError("the engine is dead")
        yield TokenDelta([2], "stop")


async def every(pause_s: float, count: int) -> AsyncGenerator[TokenDelta]:
    for token in range(count):
        yield TokenDelta([token])
        await asyncio.sleep(pause_s)
    yield TokenDelta([], "stop")


async def test_joined_deltas_lose_no_token_and_end_with_the_reason() -> None:
    for between_s in (0.0, 0.02, 10.0):
        got = [delta async for delta in joined(every(0.002, 20), lambda: between_s)]  # noqa: B023
        assert [token for delta in got for token in delta.ids] == list(range(20))
        assert [delta.finish_reason for delta in got[:-1]] == [None] * (len(got) - 1)
        assert got[-1].finish_reason == "stop"
        assert got[0].ids == [0], "the first token waits for no other"


async def test_the_pause_decides_how_many_deltas_go_out() -> None:
    apart = [delta async for delta in joined(every(0.002, 20), lambda: 0.0)]
    together = [delta async for delta in joined(every(0.002, 20), lambda: 10.0)]
    assert (len(apart), len(together)) == (21, 2)


async def test_a_failed_generation_makes_the_next_check_ask_the_engine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = MortalEngine()
    monkeypatch.setattr("serve.chat_model.build_engine", lambda *_: engine)
    model = ChatModel("folder", EngineConfig())
    params = GenerateParams(max_new_tokens=2, stop_ids=())
    assert [delta.ids async for delta in model.generate([0], params)] == [[1], [2]]
    await model.check_health()
    assert engine.num_asked == 1, "a token was made just now"
    engine.alive = False
    with pytest.raises(DataError, match="dead"):
        _ = [delta async for delta in model.generate([0], params)]
    await model.check_health()
    assert engine.num_asked == 3
