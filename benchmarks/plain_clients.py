"""What our job is compared with: clients that keep a number of requests in flight and no books."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Awaitable, Callable

import aiohttp
from openai import AsyncOpenAI, DefaultAioHttpClient

from benchmarks.fake_endpoint import Running
from benchmarks.synthesis_job import PROMPT

POLL_S = 0.005
"""How often an idle worker looks for a call whose wait is over."""


def body(number: int) -> dict[str, object]:
    """The request that all clients send."""
    message = {"role": "user", "content": PROMPT.render(number=number)}
    return {"model": "m", "max_tokens": 100, "temperature": 1.0, "messages": [message]}


def run_aiohttp(endpoint: Running, num_calls: int, concurrency: int) -> None:
    """What HTTP itself allows."""

    async def work() -> None:
        async with _session() as session:

            async def call(number: int) -> None:
                async with session.post(_url(endpoint), json=body(number)) as answer:
                    await answer.json()

            await in_turn(call, num_calls, concurrency)

    asyncio.run(work())


def run_bare(endpoint: Running, num_calls: int, concurrency: int) -> None:
    """The `openai` client without its typed models."""

    async def work() -> None:
        client = AsyncOpenAI(
            base_url=endpoint.base_url, api_key="none", http_client=DefaultAioHttpClient()
        )

        async def call(number: int) -> None:
            await client.post("/chat/completions", cast_to=object, body=body(number))

        async with client:
            await in_turn(call, num_calls, concurrency)

    asyncio.run(work())


async def in_turn(call: Callable[[int], Awaitable[None]], num_calls: int, concurrency: int) -> None:
    """Make the calls, `concurrency` at a time."""
    numbers = iter(range(num_calls))

    async def worker() -> None:
        for number in numbers:
            await call(number)

    await asyncio.gather(*(worker() for _ in range(concurrency)))


def run_persistent(
    endpoint: Running, num_calls: int, concurrency: int, *, timeout_s: float
) -> None:
    """What an endpoint that fails allows whoever obeys it.

    A refused call comes back when the endpoint says, any other failed one at once, both before new
    ones; a waiting call holds no slot.
    """

    async def work() -> None:
        async with _session(timeout_s) as session:

            async def call(number: int) -> float | None:
                """None for an answer, else the seconds to wait."""
                try:
                    async with session.post(_url(endpoint), json=body(number)) as answer:
                        if answer.status == 429:
                            return float(answer.headers["Retry-After"])
                        answer.raise_for_status()
                        await answer.json()
                        return None
                except (aiohttp.ClientError, TimeoutError, ValueError):
                    return 0.0

            await until_answered(call, num_calls, concurrency)

    asyncio.run(work())


async def until_answered(
    call: Callable[[int], Awaitable[float | None]], num_calls: int, concurrency: int
) -> None:
    """Make the calls, `concurrency` at a time, again for as long as they ask for a wait."""
    numbers = iter(range(num_calls))
    again: list[tuple[float, int]] = []
    num_open = num_calls

    async def worker() -> None:
        nonlocal num_open
        while num_open:
            if again and again[0][0] <= time.monotonic():
                _, number = heapq.heappop(again)
            elif (new := next(numbers, None)) is not None:
                number = new
            else:
                await asyncio.sleep(POLL_S)
                continue
            wait_s = await call(number)
            if wait_s is None:
                num_open -= 1
            else:
                heapq.heappush(again, (time.monotonic() + wait_s, number))

    await asyncio.gather(*(worker() for _ in range(concurrency)))


def _session(timeout_s: float | None = None) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(timeout_s)
    )


def _url(endpoint: Running) -> str:
    return f"{endpoint.base_url}/chat/completions"
