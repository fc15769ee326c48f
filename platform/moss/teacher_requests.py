"""What is sent to a teacher, and what its answers are read as."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from moss.errors import TeacherResponseError
from moss.ledger_lines import LedgerRecord
from moss.teacher_failures import Failure, Usage, malformed


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class TeacherRequest:
    """Everything that decides an answer. `messages` for chat, `prompt` for plain completion."""

    model: str
    messages: tuple[Message, ...] = ()
    prompt: str | None = None
    max_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    sample: int = 0
    """Which of several answers to the same request this is; part of the ledger key only."""

    @property
    def route(self) -> str:
        """Path below the base URL."""
        return "/chat/completions" if self.prompt is None else "/completions"

    def body(self) -> dict[str, object]:
        """What is sent."""
        body: dict[str, object] = {
            "model": self.model,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
        }
        if self.prompt is None:
            body["messages"] = [{"role": m.role, "content": m.content} for m in self.messages]
        else:
            body["prompt"] = self.prompt
        if self.stop:
            body["stop"] = list(self.stop)
        if self.seed is not None:
            body["seed"] = self.seed
        return body

    def texts(self) -> list[str]:
        """All text that the endpoint will count as prompt tokens."""
        if self.prompt is not None:
            return [self.prompt]
        return [message.content for message in self.messages]


@dataclass(frozen=True, slots=True)
class TeacherAnswer:
    """What came back, and how it was paid."""

    text: str
    finish_reason: str
    key: str
    """Ledger key."""
    model: str
    prompt_tokens: int
    completion_tokens: int
    attempts: int
    from_ledger: bool
    """True when an earlier run, or an earlier attempt of this one, had paid for it."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What is known of the endpoint once it was reached."""

    identity: str
    """Part of every ledger key: the base URL, or a fixed name for the embedded stand-in, whose
    port differs from run to run."""
    stand_in: bool = False
    """Answers are rule-based, not a language model's; every report must say so."""
    models: tuple[str, ...] = ()


def read_answer(
    content: bytes, key: str, request: TeacherRequest, *, attempt: int, worst: Usage
) -> LedgerRecord | Failure:
    """The answer in a 200 body, or why it is none; either way it was billed.

    Args:
        worst: most that the request can use; stands in where the body names no usage.
    """
    usage = worst
    try:
        body = _mapping(json.loads(content))
        usage = _usage(body.get("usage"), worst)
        choice = _mapping(_items(body["choices"])[0])
        text = (
            choice["text"] if request.prompt is not None else _mapping(choice["message"])["content"]
        )
        finish_reason = str(choice.get("finish_reason") or "stop")
        if finish_reason == "content_filter":
            return Failure(
                TeacherResponseError(f"model {request.model!r} withheld its answer by a filter"),
                kind="refused",
                billed=usage,
            )
        if not isinstance(text, str):
            raise TypeError(f"text is {type(text).__name__}")
    except (KeyError, IndexError, TypeError, ValueError) as error:
        what = f"{error!r} in {content[:200].decode(errors='replace')!r}"
        return malformed(what, model=request.model, billed=usage)
    return LedgerRecord(
        key=key,
        model=request.model,
        text=text,
        finish_reason=finish_reason,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        attempts=attempt,
    )


def _usage(value: object, worst: Usage) -> Usage:
    if not isinstance(value, Mapping):
        return worst
    prompt, completion = value.get("prompt_tokens"), value.get("completion_tokens")
    return Usage(
        prompt if isinstance(prompt, int) else worst.prompt_tokens,
        completion if isinstance(completion, int) else worst.completion_tokens,
    )


def _mapping(value: object) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise TypeError(f"expected an object, got {type(value).__name__}")
    return value


def _items(value: object) -> Sequence[object]:
    if not isinstance(value, list):
        raise TypeError(f"expected a list, got {type(value).__name__}")
    return value
