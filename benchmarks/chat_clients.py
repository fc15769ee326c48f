"""Streaming clients for `benchmarks.serve`: tokens per second and time to the first token."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp

TIMEOUT_S = 120.0
Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class Streamed:
    """One streamed answer."""

    first_token_s: float
    """From sending to the first piece of text."""
    num_tokens: int
    """As the server counts them."""


@dataclass(frozen=True, slots=True)
class Load:
    """What one server did under one load."""

    concurrency: int
    tokens_per_s: float
    first_token_s: float
    """Median."""


async def offer_load(
    url: str, body: Mapping[str, object], *, num_requests: int, concurrency: int, num_tokens: int
) -> Load:
    """Stream `num_requests` equal requests, `concurrency` at a time.

    Raises:
        RuntimeError: an answer broke off, or has another length than asked for.
    """
    numbers = iter(range(num_requests))
    answers: list[Streamed] = []
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(TIMEOUT_S)
    ) as session:

        async def worker() -> None:
            for _ in numbers:
                answers.append(await stream(session, url, body))

        began = time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(concurrency)))
        seconds = time.perf_counter() - began
    lengths = {answer.num_tokens for answer in answers}
    if lengths != {num_tokens}:
        raise RuntimeError(f"{url} gave answers of {lengths} tokens, not {num_tokens}")
    return Load(
        concurrency,
        num_requests * num_tokens / seconds,
        statistics.median(answer.first_token_s for answer in answers),
    )


async def stream(session: aiohttp.ClientSession, url: str, body: Mapping[str, object]) -> Streamed:
    """One request to its `[DONE]`.

    Raises:
        RuntimeError: the server refused, or the stream broke off.
    """
    began = time.perf_counter()
    first_token_s: float | None = None
    num_tokens: int | None = None
    async with session.post(url, json=body) as answer:
        if answer.status != 200:
            raise RuntimeError(f"{url} answered {answer.status}: {(await answer.text())[:500]}")
        async for line in answer.content:
            data = line.removeprefix(b"data: ").strip()
            if data == b"[DONE]" and first_token_s is not None and num_tokens is not None:
                return Streamed(first_token_s, num_tokens)
            if not line.startswith(b"data: "):
                continue
            chunk = json.loads(data)
            if first_token_s is None and _text(chunk):
                first_token_s = time.perf_counter() - began
            if chunk.get("usage"):
                num_tokens = chunk["usage"]["completion_tokens"]
    raise RuntimeError(f"{url} broke a stream off")


def _text(chunk: Json) -> str:
    """Text of a chunk of `/v1/completions` or `/v1/chat/completions`."""
    choices = chunk["choices"]
    assert isinstance(choices, list)
    if not choices:
        return ""
    return str(choices[0].get("text") or choices[0].get("delta", {}).get("content") or "")
