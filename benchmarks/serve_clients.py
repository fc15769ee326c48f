"""Clients of the chat service that ask, leave early, and call each end of a request by its name.

A request ends as an answer, as a 429 in OpenAI's form with Retry-After, as a break that a client
can tell (a stream without `[DONE]`, a connection that closed, an error in form), by leaving on
purpose, or not at all: then it hangs, which must not happen.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Final, Literal

import aiohttp

Ending = Literal["answer", "limited", "broken", "left", "hung", "wrong"]
"""`wrong` is an answer that no rule allows: another status, or a 429 out of form."""
CHAT: Final = "/v1/chat/completions"
DONE: Final = b"data: [DONE]"
_MAX_WAIT_S: Final = 5.0
_MAX_TOKENS: Final = 24
"""Of a reply: many short requests try the service harder than few long ones."""
_QUESTIONS: Final = ("What is 12+7?", "法国的首都是哪里？", "Tell me a story.", "2x+1=7")


@dataclass
class Load:
    """What all clients saw."""

    endings: Counter[Ending] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    """Of the answered requests."""
    oddities: list[str] = field(default_factory=list)
    """Up to ten descriptions of what was broken or wrong."""

    @property
    def num_requests(self) -> int:
        """All of them, however they ended."""
        return sum(self.endings.values())

    def note(self, what: str) -> None:
        """Keep one of the first oddities."""
        if len(self.oddities) < 10:
            self.oddities.append(what[:300])


async def run_clients(
    address: str,
    *,
    num_clients: int,
    seconds: float,
    request_timeout_s: float = 60.0,
    seed: int = 0,
) -> Load:
    """Let clients ask for so long, one request after another each; none is cut off by the end."""
    load = Load()
    ends = time.monotonic() + seconds
    limits = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(address, connector=limits, trust_env=False) as session:

        async def client(number: int) -> None:
            draw = random.Random(f"{seed} {number}")
            await asyncio.sleep(draw.random())  # nobody presses enter at the same instant
            while time.monotonic() < ends:
                started = time.monotonic()
                try:
                    async with asyncio.timeout(request_timeout_s):
                        ending, wait_s = await _ask(session, draw, load)
                except TimeoutError:
                    ending, wait_s = "hung", 0.0
                    load.note(f"no end within {request_timeout_s:g} s")
                load.endings[ending] += 1
                if ending == "answer":
                    load.seconds.append(time.monotonic() - started)
                await asyncio.sleep(wait_s * (1 + draw.random()))

        await asyncio.gather(*(client(number) for number in range(num_clients)))
    return load


async def _ask(
    session: aiohttp.ClientSession, draw: random.Random, load: Load
) -> tuple[Ending, float]:
    """One request; how it ended, and how long to wait before the next."""
    stream = draw.random() < 0.6
    leaves_after = draw.randrange(4) if draw.random() < 0.2 else None
    question = {"role": "user", "content": draw.choice(_QUESTIONS)}
    body = {"messages": [question], "stream": stream, "max_tokens": _MAX_TOKENS}
    try:
        async with session.post(CHAT, json=body) as answer:
            if answer.status == 429:
                return _limited(answer, await answer.read(), load)
            if answer.status != 200:
                text = (await answer.read()).decode(errors="replace")
                in_form = answer.status >= 500 and '"error"' in text
                load.note(f"HTTP {answer.status} {text}")
                return ("broken" if in_form else "wrong"), 1.0
            if leaves_after is not None:
                for _ in range(leaves_after if stream else 0):
                    await answer.content.readline()
                return "left", 0.0
            text_bytes = await answer.read()
    except (aiohttp.ClientError, ConnectionError) as error:
        load.note(f"{type(error).__name__}: {error}")
        return "broken", 1.0
    if stream and not text_bytes.rstrip().endswith(DONE):
        load.note(f"no [DONE]: {text_bytes[-200:].decode(errors='replace')}")
        return "broken", 1.0
    if not stream and "choices" not in json.loads(text_bytes):
        load.note(f"no choices: {text_bytes[:200].decode(errors='replace')}")
        return "wrong", 1.0
    return "answer", 0.0


def _limited(answer: aiohttp.ClientResponse, body: bytes, load: Load) -> tuple[Ending, float]:
    """A 429, in form or not."""
    wait = answer.headers.get("Retry-After", "")
    try:
        in_form = set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
    except (ValueError, KeyError, TypeError):
        in_form = False
    if not in_form or not wait.isdigit():
        load.note(f"429 out of form: {body[:200].decode(errors='replace')} Retry-After={wait!r}")
        return "wrong", 1.0
    return "limited", min(float(wait), _MAX_WAIT_S)
