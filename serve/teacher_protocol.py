"""The slice of the OpenAI wire format that the offline teacher speaks: requests in, bodies out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypedDict

from moss.offline_teacher import MODELS, Answer
from moss.offline_teacher.brain import ChatMessage

OWNER: Final = "moss-offline-teacher"
"""Owner of every model; clients know the stand-in by it."""

_MAX_CHOICES = 16
_MAX_PROMPTS = 256
_CHUNK_CHARACTERS = 16
_ROLES = frozenset({"system", "developer", "user", "assistant"})


class RequestError(Exception):
    """A request that gets an OpenAI error body instead of an answer."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        kind = "authentication_error" if status == 401 else "invalid_request_error"
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


class _Limits(TypedDict):
    seed: int
    max_tokens: int | None
    stop: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TeacherRequest:
    """What both endpoints have in common."""

    model: str
    seed: int
    num_choices: int
    max_tokens: int | None
    stop: tuple[str, ...]
    is_stream: bool
    includes_usage: bool
    """Whether a stream ends with a chunk of token counts."""

    def limits(self) -> _Limits:
        """Arguments that every answer to this request shares."""
        return {"seed": self.seed, "max_tokens": self.max_tokens, "stop": self.stop}


def parse_body(raw: bytes) -> dict[str, object]:
    """The JSON object of a request."""
    try:
        data = json.loads(raw)
    except (UnicodeDecodeError, ValueError) as error:
        raise RequestError(400, f"the body is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise RequestError(400, f"the body is a {type(data).__name__}, expected an object")
    return data


def parse_request(data: Mapping[str, object]) -> TeacherRequest:
    """Model, sampling and streaming options; sampling temperature has no effect here."""
    model = data.get("model")
    if not isinstance(model, str):
        raise RequestError(400, "model is missing; it must be a string", param="model")
    require_model(model)
    limit = data.get("max_completion_tokens") or data.get("max_tokens")
    options = data.get("stream_options")
    return TeacherRequest(
        model=model,
        seed=_integer(data.get("seed"), "seed", default=0, low=-(2**63), high=2**63),
        num_choices=_integer(data.get("n"), "n", default=1, low=1, high=_MAX_CHOICES),
        max_tokens=None
        if limit is None
        else _integer(limit, "max_tokens", default=0, low=1, high=2**31),
        stop=_stops(data.get("stop")),
        is_stream=data.get("stream") is True,
        includes_usage=isinstance(options, dict) and options.get("include_usage") is True,
    )


def require_model(model: str) -> None:
    """Raise the endpoint's 404 for a name it does not serve."""
    if model not in MODELS:
        raise RequestError(
            404,
            f"the model {model!r} does not exist; this endpoint has {', '.join(MODELS)}",
            code="model_not_found",
            param="model",
        )


def parse_messages(data: Mapping[str, object]) -> list[ChatMessage]:
    """Messages of a chat request; content may be a text or a list of text parts."""
    messages = data.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RequestError(400, "messages must be a list of at least one message", param="messages")
    return [_message(item, position) for position, item in enumerate(messages)]


def parse_prompts(data: Mapping[str, object]) -> list[str]:
    """Prompts of a completion request: one text or several."""
    prompt = data.get("prompt")
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if (
        not isinstance(prompts, list)
        or not 1 <= len(prompts) <= _MAX_PROMPTS
        or not all(isinstance(item, str) for item in prompts)
    ):
        raise RequestError(
            400, f"prompt must be a text or a list of 1 to {_MAX_PROMPTS} texts", param="prompt"
        )
    return prompts


def _message(item: object, position: int) -> ChatMessage:
    name = f"messages[{position}]"
    if not isinstance(item, dict) or item.get("role") not in _ROLES:
        raise RequestError(
            400, f"{name} needs a role of {', '.join(sorted(_ROLES))}", param="messages"
        )
    role = "system" if item["role"] == "developer" else str(item["role"])
    content = item.get("content")
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else None for part in content]
        if all(isinstance(part, str) for part in parts):
            content = "".join(str(part) for part in parts)
    if not isinstance(content, str):
        raise RequestError(400, f"{name}.content must be a text", param="messages")
    return ChatMessage(role, content)


def _stops(value: object) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else value or []
    if not isinstance(stops, list) or not all(isinstance(item, str) for item in stops):
        raise RequestError(400, "stop must be a text or a list of texts", param="stop")
    return tuple(stops)


def _integer(value: object, name: str, *, default: int, low: int, high: int) -> int:
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise RequestError(
            400, f"{name} is {value!r}, expected a whole number from {low} to {high}", param=name
        )
    return value


def models_body() -> dict[str, object]:
    """Body of `/v1/models`."""
    return {"object": "list", "data": [model_body(model) for model in MODELS]}


def model_body(model: str) -> dict[str, object]:
    """One entry of `/v1/models`."""
    require_model(model)
    return {"id": model, "object": "model", "created": 0, "owned_by": OWNER}


@dataclass(frozen=True, slots=True)
class Reply:
    """Answers to one request, ready to be written as a body or as a stream."""

    id: str
    created: int
    """Seconds since the epoch."""
    model: str
    is_chat: bool
    answers: Sequence[Answer]
    prompt_tokens: int

    def body(self) -> dict[str, object]:
        """The whole response."""
        kind = "chat.completion" if self.is_chat else "text_completion"
        choices = [
            self._choice(index, answer.text, answer.finish_reason)
            for index, answer in enumerate(self.answers)
        ]
        return {**self._head(kind), "choices": choices, "usage": self._usage()}

    def events(self, *, includes_usage: bool) -> Iterator[bytes]:
        """Server-sent events: pieces of each answer, its end, token counts if asked, `[DONE]`."""
        kind = "chat.completion.chunk" if self.is_chat else "text_completion"
        head = self._head(kind)
        for index, answer in enumerate(self.answers):
            for start in range(0, len(answer.text), _CHUNK_CHARACTERS):
                piece = answer.text[start : start + _CHUNK_CHARACTERS]
                yield _event({**head, "choices": [self._delta(index, piece, is_first=start == 0)]})
            yield _event({**head, "choices": [self._delta_end(index, answer.finish_reason)]})
        if includes_usage:
            yield _event({**head, "choices": [], "usage": self._usage()})
        yield b"data: [DONE]\n\n"

    def _head(self, kind: str) -> dict[str, object]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _choice(self, index: int, text: str, reason: str) -> dict[str, object]:
        common = {"index": index, "logprobs": None, "finish_reason": reason}
        if self.is_chat:
            return {**common, "message": {"role": "assistant", "content": text}}
        return {**common, "text": text}

    def _delta(self, index: int, piece: str, *, is_first: bool) -> dict[str, object]:
        common = {"index": index, "logprobs": None, "finish_reason": None}
        if not self.is_chat:
            return {**common, "text": piece}
        role = {"role": "assistant"} if is_first else {}
        return {**common, "delta": {**role, "content": piece}}

    def _delta_end(self, index: int, reason: str) -> dict[str, object]:
        empty: dict[str, object] = {"delta": {}} if self.is_chat else {"text": ""}
        return {"index": index, "logprobs": None, "finish_reason": reason, **empty}

    def _usage(self) -> dict[str, int]:
        written = sum(answer.num_tokens for answer in self.answers)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": written,
            "total_tokens": self.prompt_tokens + written,
        }


def _event(data: Mapping[str, object]) -> bytes:
    return b"data: " + encode(data) + b"\n\n"


def encode(data: Mapping[str, object]) -> bytes:
    """Compact JSON in UTF-8."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()
