"""Raw continuation of texts by a model: no sections, no tools, no history.

A prompt is plain text to the last character: control strings in it are escaped as in every message,
so that it cannot open a section, and the tokenizer never makes control tokens of text. The prompts
of one request are continued one after the other, so that a request takes one place at the engine
however many it has.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal

from moss.chat import escape
from moss.config.api_keys import ApiKeyConfig
from serve.chat_service import ChatService, check_text
from serve.completion_schemas import CompletionRequest
from serve.conversation import stop_ids
from serve.engines import GenerateParams
from serve.errors import ApiError
from serve.model_router import ModelRoute
from serve.request_record import RequestRecord
from serve.text_stream import TextStream


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The next characters of one continuation."""

    index: int
    """Which prompt's."""
    text: str
    finish_reason: Literal["stop", "length"] | None = None
    """Set on the last delta of the prompt."""


@dataclass(frozen=True, slots=True)
class PreparedCompletion:
    """A request, checked and ready to run."""

    model: ModelRoute
    prompts: tuple[list[int], ...]
    """Token ids of each."""
    params: GenerateParams
    stops: tuple[str, ...]

    async def run(self, record: RequestRecord) -> AsyncGenerator[TextDelta]:
        """Continue every prompt; `record` has the tokens at any time."""
        for index, prompt_ids in enumerate(self.prompts):
            async with aclosing(self._continue(index, prompt_ids, record)) as deltas:
                async for delta in deltas:
                    yield delta

    async def _continue(
        self, index: int, prompt_ids: list[int], record: RequestRecord
    ) -> AsyncGenerator[TextDelta]:
        stream = TextStream(self.model.renderer.tokenizer, self.stops)
        record.count.prompt += len(prompt_ids)
        finish_reason: Literal["stop", "length"] = "stop"
        async with aclosing(self.model.engine.generate(prompt_ids, self.params)) as deltas:
            async for delta in deltas:
                record.count.completion += len(delta.ids)
                if text := stream.push(delta.ids):
                    record.note_first_token()
                    yield TextDelta(index, text)
                if stream.is_stopped:
                    break
                finish_reason = delta.finish_reason or finish_reason
        rest = stream.finish()
        yield TextDelta(index, rest, "stop" if stream.is_stopped else finish_reason)


def prepare_completion(
    service: ChatService,
    request: CompletionRequest,
    owner: str,
    key: ApiKeyConfig,
    *,
    request_id: str,
) -> PreparedCompletion:
    """Check a request against the service and the key's scope.

    Raises:
        ApiError: 400, 403 or 404, naming the field.
    """
    model = service.models.find(request.model, owner, key)
    for prompt in request.prompt:
        check_text(prompt, service.config.http.max_message_chars, "prompt")
    tokenizer = model.renderer.tokenizer
    prompts = tuple(
        tokenizer.encode(escape(prompt)) or [tokenizer.eos_id] for prompt in request.prompt
    )
    config = service.config.turn
    limit = min(request.max_tokens or config.max_reply_tokens, config.max_reply_tokens)
    longest = max(map(len, prompts))
    if longest + limit > model.engine.max_positions:
        raise ApiError(
            400, f"a prompt of {longest} tokens with max_tokens={limit} does not fit the model's "
            f"{model.engine.max_positions} positions; shorten one of them",
            code="context_length_exceeded", param="prompt",
        )  # fmt: skip
    params = GenerateParams(
        max_new_tokens=limit,
        stop_ids=stop_ids(model.renderer),
        temperature=config.temperature if request.temperature is None else request.temperature,
        top_p=config.top_p if request.top_p is None else request.top_p,
        seed=config.seed if request.seed is None else request.seed,
        request_id=request_id,
    )
    return PreparedCompletion(model, prompts, params, request.stop)
