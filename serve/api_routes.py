"""The OpenAI-compatible routes: `/v1/*`, `/health`, `/ready`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from moss.types import QUALITY_LEVELS
from serve.chat_service import ChatService, PreparedTurn
from serve.conversation import TurnEvent, TurnFinished, TurnOutcome, collect_turn
from serve.errors import as_api_error
from serve.gate import key_of
from serve.key_limits import KeyLimits
from serve.model_router import ServedModel
from serve.request_record import current_record
from serve.responses import Answer, Json, sse, sse_error
from serve.schemas import ChatRequest
from serve.streaming import DONE, PING, HeldStream, in_batches, until_left
from serve.users import owner_of


def api_router(service: ChatService, limits: KeyLimits) -> APIRouter:
    """Routes over one service."""
    router = APIRouter()

    @router.post("/v1/chat/completions")
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        key = key_of(request)
        owner = owner_of(request, key.label)
        record = current_record()
        count = record.count
        with ExitStack() as held:  # refused in form, while the status line is still ours
            held.enter_context(service.admitted())
            held.enter_context(limits.admitted(key, count))
            if body.moss.store is None:  # no database is asked
                prepared = service.prepare(body, owner, key)
            else:
                prepared = await asyncio.to_thread(service.prepare, body, owner, key)
            record.model = prepared.model.served.name
            events = service.walk(prepared, count)
            answer = Answer(prepared.model.served, body.moss.include)
            if body.stream:
                record.is_stream = True
                pieces = _stream(service, body, owner, prepared, events, answer)
                return HeldStream(pieces, held.pop_all())
            completion = await _complete(service, body, request, owner, prepared, events, answer)
        return JSONResponse(completion)

    @router.get("/v1/models")
    async def models(request: Request) -> Json:
        listed = service.models.listed(key_of(request))
        return {"object": "list", "data": [_model(item, service) for item in listed]}

    @router.get("/v1/models/{name:path}")
    async def model(name: str, request: Request) -> Json:
        return _model(service.models.describe(name, key_of(request)), service)

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


def _model(model: ServedModel, service: ChatService) -> Json:
    levels = list(QUALITY_LEVELS) if service.models.offers_quality(model.name) else []
    return {
        "id": model.name, "object": "model", "created": model.created,
        "owned_by": "moss-platform", "moss": {"quality_levels": levels},
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
    outcome = await until_left(request, collect_turn(events))
    kept = await service.keep(body, owner, prepared, outcome)
    return answer.completion(prepared, outcome, kept)


async def _stream(
    service: ChatService,
    body: ChatRequest,
    owner: str,
    prepared: PreparedTurn,
    events: AsyncGenerator[TurnEvent],
    answer: Answer,
) -> AsyncGenerator[bytes]:
    """Server-sent events; after a failure an error event and no `[DONE]`."""
    piece = sse(answer.first_chunk())
    outcome: TurnOutcome | None = None
    try:
        async with aclosing(in_batches(events)) as batches:
            async for batch in batches:
                for event in batch:
                    if isinstance(event, TurnFinished):
                        outcome = event.outcome
                    piece += b"".join(map(sse, answer.event_chunks(event)))
                if not batch:
                    piece += PING
                if piece:
                    yield piece
                    piece = b""
        assert outcome is not None, "a turn ends with TurnFinished"
        kept = await service.keep(body, owner, prepared, outcome)
    except Exception as error:  # the status line is out: the stream itself carries the failure
        yield piece + sse_error(as_api_error(error))
        return
    piece = sse(answer.last_chunk(prepared, outcome, kept))
    if body.stream_options is not None and body.stream_options.include_usage:
        piece += sse(answer.usage_chunk(outcome))
    current_record().is_complete = True
    yield piece + DONE
