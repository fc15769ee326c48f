"""How answers reach a client that may leave: streams in pieces, and work that ends with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import ExitStack, aclosing
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from serve.errors import ApiError

DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"
_PING_EVERY_S = 15.0
_DISCONNECT_POLL_S = 0.2
_T = TypeVar("_T")


class HeldStream(StreamingResponse):
    """A stream that gives back what it holds when it ends, and also when it never began.

    It has at least one piece.
    """

    def __init__(self, pieces: AsyncGenerator[bytes], held: ExitStack) -> None:
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__(pieces, media_type="text/event-stream", headers=headers)
        self._pieces = pieces
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry point."""
        with self._held:
            async with aclosing(self._pieces):
                await super().__call__(scope, receive, send)

    async def stream_response(self, send: Send) -> None:
        """Send the head with the first piece: alone it would be one more to carry."""
        head: Message = {
            "type": "http.response.start", "status": self.status_code, "headers": self.raw_headers,
        }  # fmt: skip
        async for piece in self._pieces:
            if head:
                await send(head)
                head = {}
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def in_batches(events: AsyncGenerator[_T]) -> AsyncGenerator[list[_T]]:
    """All events that have come, as often as some have; none whenever none came for a while.

    Proxies hang up where nothing passes: an empty batch is the time for a ping.
    """
    come: list[_T] = []
    news = asyncio.Event()
    # One task for all of them: one for each event would cost more than most events do.
    reading = asyncio.create_task(_read(events, come, news))
    try:
        ended = False
        while not ended:
            try:
                async with asyncio.timeout(_PING_EVERY_S):
                    await news.wait()
            except TimeoutError:
                yield []
                continue
            news.clear()
            ended = reading.done()
            batch, come[:] = come[:], []
            if batch:
                yield batch
        await reading
    finally:
        reading.cancel()
        await asyncio.wait({reading}, timeout=_PING_EVERY_S)
        if reading.done() and not reading.cancelled():
            reading.exception()  # asyncio would log one that nobody has looked at


async def _read(events: AsyncGenerator[_T], come: list[_T], news: asyncio.Event) -> None:
    """Gather every event, and tell of each and of the end."""
    try:
        async with aclosing(events):
            async for event in events:
                come.append(event)
                news.set()
    finally:
        news.set()


async def until_left(request: Request, work: Coroutine[object, object, _T]) -> _T:
    """What `work` returns; it is cancelled when the client leaves.

    Raises:
        ApiError: 499, the client has left.
    """
    working = asyncio.create_task(work)
    watch = asyncio.create_task(_left(request))
    try:
        await asyncio.wait({working, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ApiError(499, "the client closed the request", code="client_closed_request")
        return working.result()
    finally:
        working.cancel()
        watch.cancel()


async def _left(request: Request) -> None:
    """Return once the client has disconnected."""
    while not await request.is_disconnected():
        await asyncio.sleep(_DISCONNECT_POLL_S)
