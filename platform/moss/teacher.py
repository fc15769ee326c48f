"""The one path by which anything asks an LLM: any OpenAI-compatible endpoint, through `openai`.

The client's own retries are off and its typed models are bypassed (2.3 times less CPU per call).
Every request is looked up in the ledger first and written to it before its answer is used. Between
attempts the slot is given back, so that a waiting request does not hold up others.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Self

from openai import AsyncOpenAI, DefaultAioHttpClient, OpenAIError

from moss.config.teacher import TeacherConfig
from moss.errors import (
    TeacherError,
    TeacherResponseError,
    TeacherUnavailableError,
)
from moss.ledger import Ledger, LedgerRecord, content_key
from moss.limits import Limits, Spend, price, worst_case
from moss.teacher_failures import Failure, classify, malformed


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


@dataclass(slots=True)
class _Clock:
    """When this caller last got an answer; tells a dead endpoint from a bad request."""

    last_success_s: float = field(default=float("-inf"))


class Teacher:
    """Asks one endpoint. Use as an async context manager inside one event loop."""

    def __init__(
        self, config: TeacherConfig, endpoint: Endpoint, *, ledger: Ledger, limits: Limits
    ) -> None:
        self._config = config
        self._endpoint = endpoint
        self._ledger = ledger
        self._limits = limits
        self._clock = _Clock()
        self._pending: dict[str, asyncio.Task[LedgerRecord]] = {}
        self._client = open_client(config)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections, hand back what the limits lent."""
        await self._limits.close()
        await self._client.close()

    async def complete(self, request: TeacherRequest) -> TeacherAnswer:
        """Answer a request, from the ledger if it was paid before.

        Raises:
            TeacherResponseError: this request cannot be answered; others may be.
            TeacherAuthError, TeacherQuotaError, TeacherUnavailableError: no request can.
        """
        key = content_key(self._endpoint.identity, request.body(), request.sample)
        record = self._ledger.get(key)
        from_ledger = record is not None
        if record is None:
            task = self._pending.get(key)
            if task is None:
                task = asyncio.create_task(self._buy(key, request))
                self._pending[key] = task
                task.add_done_callback(lambda _: self._pending.pop(key, None))
            record = await task
        return TeacherAnswer(
            text=record.text,
            finish_reason=record.finish_reason,
            key=key,
            model=record.model,
            prompt_tokens=record.prompt_tokens,
            completion_tokens=record.completion_tokens,
            attempts=record.attempts,
            from_ledger=from_ledger,
        )

    async def _buy(self, key: str, request: TeacherRequest) -> LedgerRecord:
        reserved = worst_case(request.model, request.texts(), request.max_tokens, self._config)
        await self._limits.reserve(reserved)
        spent = Spend()
        try:
            record = await self._attempt(key, request)
            self._ledger.append(record)
            spent = price(
                record.model, record.prompt_tokens, record.completion_tokens, self._config
            )
        finally:
            self._limits.settle(reserved, spent)
        return record

    async def _attempt(self, key: str, request: TeacherRequest) -> LedgerRecord:
        started = time.monotonic()
        config = self._config
        for attempt in range(1, config.max_attempts + 1):
            outcome = await self._send(key, request, attempt)
            if isinstance(outcome, LedgerRecord):
                self._clock.last_success_s = time.monotonic()
                return outcome
            if not outcome.is_retryable:
                raise outcome.error
            wait_s = _backoff_s(outcome, attempt, config)
            if attempt == config.max_attempts or wait_s > config.max_retry_after_s:
                raise self._given_up(outcome.error, attempt, started)
            await asyncio.sleep(wait_s)
        raise AssertionError("max_attempts is at least 1")

    async def _send(
        self, key: str, request: TeacherRequest, attempt: int
    ) -> LedgerRecord | Failure:
        await self._limits.take_slot()
        try:
            async with asyncio.timeout(self._config.timeout_s):
                body = await self._client.post(request.route, cast_to=object, body=request.body())
        except OpenAIError as error:
            return classify(error, model=request.model, config=self._config)
        except TimeoutError:
            return Failure(
                TeacherUnavailableError(
                    f"{self._config.base_url} gave no answer within {self._config.timeout_s:g} s "
                    "(teacher.timeout_s)"
                ),
                is_retryable=True,
            )
        except ValueError as error:
            return malformed(str(error), model=request.model)
        finally:
            self._limits.give_slot()
        return _read_body(body, key, request, attempt)

    def _given_up(self, error: TeacherError, attempts: int, started: float) -> TeacherError:
        message = f"{error} (gave up after {attempts} attempts)"
        if self._clock.last_success_s > started:
            return TeacherResponseError(message)
        return type(error)(message)


def open_client(config: TeacherConfig, *, timeout_s: float | None = None) -> AsyncOpenAI:
    """A client for the configured endpoint, its own retries off."""
    return AsyncOpenAI(
        base_url=config.base_url,
        api_key=config.api_key() or "none",
        max_retries=0,
        timeout=timeout_s or config.timeout_s,
        http_client=DefaultAioHttpClient(),
    )


def _read_body(
    body: object, key: str, request: TeacherRequest, attempt: int
) -> LedgerRecord | Failure:
    try:
        choice = _mapping(_items(_mapping(body)["choices"])[0])
        text = (
            choice["text"] if request.prompt is not None else _mapping(choice["message"])["content"]
        )
        usage = _mapping(_mapping(body).get("usage") or {})
        finish_reason = str(choice.get("finish_reason") or "stop")
        if finish_reason == "content_filter":
            return Failure(
                TeacherResponseError(f"model {request.model!r} withheld its answer by a filter"),
                is_retryable=False,
            )
        if not isinstance(text, str):
            raise TypeError(f"text is {type(text).__name__}")
        return LedgerRecord(
            key=key,
            model=request.model,
            text=text,
            finish_reason=finish_reason,
            prompt_tokens=_count(usage.get("prompt_tokens")),
            completion_tokens=_count(usage.get("completion_tokens")),
            attempts=attempt,
        )
    except (KeyError, IndexError, TypeError) as error:
        return malformed(f"{error!r} in {body!r}", model=request.model)


def _mapping(value: object) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise TypeError(f"expected an object, got {type(value).__name__}")
    return value


def _items(value: object) -> Sequence[object]:
    if not isinstance(value, list):
        raise TypeError(f"expected a list, got {type(value).__name__}")
    return value


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0


def _backoff_s(failure: Failure, attempt: int, config: TeacherConfig) -> float:
    """Retry-After if given, else doubling; a random quarter on top so that callers spread out."""
    base = min(config.backoff_s * 2.0 ** (attempt - 1), config.max_backoff_s)
    if failure.retry_after_s is not None:
        base = max(failure.retry_after_s, 0.0)
    return base * (1 + random.random() / 4)
