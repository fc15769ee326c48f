from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from serve.chat_model import joined
from serve.engines import TokenDelta


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
