"""Streams in pieces: nothing is lost, doubled or held back, and leaving ends the work."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import ExitStack

import pytest
from starlette.types import Message

from serve import streaming
from serve.streaming import HeldStream, in_batches


async def numbers(count: int, pause_s: float | None = None) -> AsyncGenerator[int]:
    for number in range(count):
        if pause_s is not None:
            await asyncio.sleep(pause_s)
        yield number


async def test_every_event_comes_once_and_in_order() -> None:
    for pause_s in (None, 0.0, 0.002):
        batches = [batch async for batch in in_batches(numbers(50, pause_s))]
        assert [number for batch in batches for number in batch] == list(range(50))
        assert all(batches), "no ping was due"


async def test_what_came_meanwhile_comes_together() -> None:
    batches = in_batches(numbers(50, 0.0))
    first = await anext(batches)
    await asyncio.sleep(0.05)
    assert first + await anext(batches) == list(range(50))
    await batches.aclose()


async def test_silence_gives_empty_batches_and_loses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streaming, "_PING_EVERY_S", 0.02)
    batches = [batch async for batch in in_batches(numbers(2, 0.1))]
    assert [batch for batch in batches if batch] == [[0], [1]]
    assert batches.count([]) >= 4


async def test_a_failure_comes_after_the_events_before_it() -> None:
    async def failing() -> AsyncGenerator[int]:
        yield 1
        raise ValueError("after one")

    batches = in_batches(failing())
    assert await anext(batches) == [1]
    with pytest.raises(ValueError, match="after one"):
        await anext(batches)


async def test_leaving_ends_the_events_at_once() -> None:
    ended = asyncio.Event()

    async def endless() -> AsyncGenerator[int]:
        try:
            yield 1
            await asyncio.sleep(60)
        finally:
            ended.set()

    batches = in_batches(endless())
    assert await anext(batches) == [1]
    await batches.aclose()
    assert ended.is_set()


async def test_the_head_waits_for_the_first_piece() -> None:
    sent: list[Message] = []

    async def pieces() -> AsyncGenerator[bytes]:
        assert not sent
        yield b"a"
        yield b"b"

    async def send(message: Message) -> None:
        sent.append(message)

    await HeldStream(pieces(), ExitStack()).stream_response(send)
    assert [message.get("body") for message in sent] == [None, b"a", b"b", b""]
    assert sent[0]["type"] == "http.response.start"
    assert sent[0]["status"] == 200
    assert [message["more_body"] for message in sent[1:]] == [True, True, False]
