"""The OpenAI-compatible routes: `/v1/*`, `/health`, `/ready`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from serve.chat_service import ChatService, PreparedTurn
from serve.conversation import TurnEvent, TurnFinished, TurnOutcome, collect_turn
from serve.engines import TokenCount
from serve.errors import ApiError, as_api_error
from serve.gate import key_of
from serve.key_limits import KeyLimits
from serve.model_router import ServedModel
from serve.responses import Answer, Json, sse, sse_error
from serve.schemas import ChatRequest
from serve.users import owner_of

_PING_EVERY_S = 15.0
_DISCONNECT_POLL_S = 0.2
_DONE = b"data: [DONE]\n\n"


def api_router(service: ChatService, limits: KeyLimits) -> APIRouter:
    """Routes over one service."""
    router = APIRouter()

    @router.post("/v1/chat/completions")
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        key = key_of(request)
        owner = owner_of(request, key.label)
        count = TokenCount()
        with ExitStack() as held:  # refused in form, while the status line is still ours
            held.enter_context(service.admitted())
            held.enter_context(limits.admitted(key, count))
            prepared = await asyncio.to_thread(service.prepare, body, owner, key)
            events = service.walk(prepared, count)
            answer = Answer(prepared.model.served, body.moss.include)
            if body.stream:
                pieces = _stream(service, body, owner, prepared, events, answer)
                return _HeldStream(pieces, held.pop_all())
            completion = await _complete(service, body, request, owner, prepared, events, answer)
        return JSONResponse(completion)

    @router.get("/v1/models")
    async def models(request: Request) -> Json:
        listed = service.models.listed(key_of(request))
        return {"object": "list", "data": [_model(item) for item in listed]}

    @router.get("/v1/models/{name:path}")
    async def model(name: str, request: Request) -> Json:
        return _model(service.models.describe(name, key_of(request)))

    @router.get("/v1/moss/tools")
    async def tools(request: Request) -> Json:
        return {"tools": service.offered_tools(key_of(request))}

    @router.get("/health")
    async def health() -> Json:
        return {"status": "ok"}

    @router.get("/ready")
    async def ready() -> Json:
        await service.check_ready()
        return {"status": "ready", "model": service.models.default}

    return router


def _model(model: ServedModel) -> Json:
    return {
        "id": model.name, "object": "model", "created": model.created, "owned_by": "moss-platform"
    }  # fmt: skip


async def _complete(
    service: ChatService,
    body: ChatRequest,
    request: Request,
    owner: str,
    prepared: PreparedTurn,
    events: AsyncGenerator[TurnEvent],
    answer: Answer,
) -> Json:
    """The whole answer; generation stops when the client leaves."""
    turn = asyncio.create_task(collect_turn(events))
    watch = asyncio.create_task(_left(request))
    try:
        await asyncio.wait({turn, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not turn.done():
            raise ApiError(499, "the client closed the request", code="client_closed_request")
        outcome = turn.result()
    finally:
        turn.cancel()
        watch.cancel()
    kept = await service.keep(body, owner, prepared, outcome)
    return answer.completion(prepared, outcome, kept)


async def _left(request: Request) -> None:
    """Return once the client has disconnected."""
    while not await request.is_disconnected():
        await asyncio.sleep(_DISCONNECT_POLL_S)


async def _stream(
    service: ChatService,
    body: ChatRequest,
    owner: str,
    prepared: PreparedTurn,
    events: AsyncGenerator[TurnEvent],
    answer: Answer,
) -> AsyncGenerator[bytes]:
    """Server-sent events; after a failure an error event and no `[DONE]`."""
    yield sse(answer.first_chunk())
    outcome: TurnOutcome | None = None
    try:
        async with aclosing(_with_pings(events)) as timed:
            async for event in timed:
                if isinstance(event, TurnFinished):
                    outcome = event.outcome
                for chunk in answer.event_chunks(event) if event else ():
                    yield sse(chunk)
                if event is None:
                    yield b": ping\n\n"
        assert outcome is not None, "a turn ends with TurnFinished"
        kept = await service.keep(body, owner, prepared, outcome)
    except Exception as error:  # the status line is out: the stream itself carries the failure
        yield sse_error(as_api_error(error))
        return
    yield sse(answer.last_chunk(prepared, outcome, kept))
    if body.stream_options is not None and body.stream_options.include_usage:
        yield sse(answer.usage_chunk(outcome))
    yield _DONE


class _HeldStream(StreamingResponse):
    """A stream that gives back what it holds when it ends, and also when it never began."""

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


async def _with_pings(events: AsyncGenerator[TurnEvent]) -> AsyncGenerator[TurnEvent | None]:
    """The events, and None whenever none came for a while; keeps proxies from hanging up."""
    try:
        while True:
            coming = asyncio.ensure_future(anext(events))
            try:
                while not (await asyncio.wait({coming}, timeout=_PING_EVERY_S))[0]:
                    yield None
                yield coming.result()
            except StopAsyncIteration:
                return
            finally:
                if not coming.done():
                    coming.cancel()
                    await asyncio.wait({coming}, timeout=_PING_EVERY_S)
    finally:
        await events.aclose()
