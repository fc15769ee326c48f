"""POST /v1/completions: OpenAI's older form, whole or as a stream."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, field

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from serve.chat_service import ChatService
from serve.completing import PreparedCompletion, TextDelta, prepare_completion
from serve.completion_schemas import CompletionRequest
from serve.engines import TokenCount
from serve.errors import as_api_error
from serve.gate import key_of
from serve.key_limits import KeyLimits
from serve.request_record import RequestRecord, current_record
from serve.responses import Json, sse, sse_error, usage
from serve.streaming import DONE, PING, HeldStream, in_batches, until_left
from serve.users import owner_of


def completion_router(service: ChatService, limits: KeyLimits) -> APIRouter:
    """The route over one service; keys, limits and admission are those of chat."""
    router = APIRouter()

    @router.post("/v1/completions")
    async def completions(body: CompletionRequest, request: Request) -> Response:
        key = key_of(request)
        owner = owner_of(request, key.label)
        record = current_record()
        with ExitStack() as held:  # refused in form, while the status line is still ours
            held.enter_context(service.admitted())
            held.enter_context(limits.admitted(key, record.count))
            prepared = await asyncio.to_thread(
                prepare_completion, service, body, owner, key, request_id=record.id
            )
            record.model = prepared.model.served.name
            form = _Form(record.model)
            if body.stream:
                record.is_stream = True
                return HeldStream(_stream(body, prepared, form, record), held.pop_all())
            choices = await until_left(request, _choices(prepared, record))
        return JSONResponse(form.whole(choices, record.count))

    return router


@dataclass(frozen=True, slots=True)
class _Form:
    """Builds every piece of one answer; id, time and model are the same in all of them."""

    model: str
    id: str = field(default_factory=lambda: f"cmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, choices: list[Json], count: TokenCount) -> Json:
        """The whole answer, or a chunk of it, with its usage."""
        return self.chunk(choices) | {"usage": usage(count.prompt, count.completion)}

    def chunk(self, choices: list[Json]) -> Json:
        """A piece of a stream."""
        return {
            "id": self.id, "object": "text_completion", "created": self.created,
            "model": self.model, "choices": choices,
        }  # fmt: skip


def _choice(delta: TextDelta) -> Json:
    return {
        "index": delta.index, "text": delta.text, "logprobs": None,
        "finish_reason": delta.finish_reason,
    }  # fmt: skip


async def _choices(prepared: PreparedCompletion, record: RequestRecord) -> list[Json]:
    """One choice per prompt, in their order."""
    texts = [""] * len(prepared.prompts)
    choices: list[Json] = []
    async with aclosing(prepared.run(record)) as deltas:
        async for delta in deltas:
            texts[delta.index] += delta.text
            if delta.finish_reason is not None:
                choices.append(_choice(delta) | {"text": texts[delta.index]})
    return choices


async def _stream(
    body: CompletionRequest, prepared: PreparedCompletion, form: _Form, record: RequestRecord
) -> AsyncGenerator[bytes]:
    """Server-sent events; after a failure an error event and no `[DONE]`."""
    try:
        async with aclosing(in_batches(prepared.run(record))) as batches:
            async for batch in batches:
                yield b"".join(sse(form.chunk([_choice(delta)])) for delta in batch) or PING
    except Exception as error:  # the status line is out: the stream itself carries the failure
        yield sse_error(as_api_error(error))
        return
    piece = b""
    if body.stream_options is not None and body.stream_options.include_usage:
        piece = sse(form.whole([], record.count))
    record.is_complete = True
    yield piece + DONE
