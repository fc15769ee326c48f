"""An OpenAI-compatible endpoint that answers after a fixed time and fails by given shares.

    python -m benchmarks.fake_endpoint --latency-s 0.2 --faults '{"status_429": 0.05}'

Writes one JSON line when it listens, one at the first request, one when `--expect` answers have
been sold. `GET /stats` tells what was sold, per content: a content sold twice was paid twice.
`POST /reset` forgets, and takes other `faults`, `latency_s` and `expect` as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import math
import random
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TypedDict

from aiohttp import web

FAULTS = ("status_429", "status_500", "cut", "hang", "malformed")
HANG_S = 3600.0
WORD = " word"
MOST = 0.99
"""What is left then are stragglers, which wait out several failures in a row."""


class Stats(TypedDict):
    """What was asked and sold since the last reset."""

    sold: int
    contents: int
    """Different requests that were sold."""
    sold_again: int
    outcomes: dict[str, int]
    max_in_flight: int
    span_s: float
    """From the first request to the last answer."""
    most_span_s: float
    """From the first request until `MOST` of all contents had been sold."""


@dataclass
class FakeEndpoint:
    """What is answered, and what was asked since the last reset."""

    latency_s: float = 0.2
    tokens: int = 100
    retry_after_s: float = 1.0
    faults: dict[str, float] = field(default_factory=dict)
    """Fault -> share of requests."""
    rate_headers: dict[str, str] = field(default_factory=dict)
    expect: int = 0
    sold: Counter[bytes] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    in_flight: int = 0
    max_in_flight: int = 0
    first_at: float | None = None
    new_at: list[float] = field(default_factory=list)
    """When each content was sold for the first time."""
    last_at: float | None = None
    chance: random.Random = field(default_factory=lambda: random.Random(0))

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """One completion, or a fault."""
        content = await request.read()
        if self.first_at is None:
            self.first_at = time.monotonic()
            say({"event": "first"})
        fault = self._draw()
        self.outcomes[fault] += 1
        if fault == "status_429":
            return self._refusal()
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        try:
            await asyncio.sleep(HANG_S if fault == "hang" else self.latency_s)
        finally:
            self.in_flight -= 1
        if fault == "status_500":
            return web.json_response({"error": {"message": "oops", "code": None}}, status=500)
        if fault == "cut":
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if fault == "malformed":
            return web.Response(text='{"choices": [{"mess', content_type="application/json")
        return self._sell(hashlib.sha256(content).digest()[:16])

    def _draw(self) -> str:
        mark = self.chance.random()
        for fault, share in self.faults.items():
            mark -= share
            if mark < 0:
                return fault
        return "answer"

    def _refusal(self) -> web.Response:
        body = {"error": {"message": "slow down", "code": "rate_limit_exceeded"}}
        headers = {"Retry-After": f"{self.retry_after_s:g}", **self.rate_headers}
        return web.json_response(body, status=429, headers=headers)

    def _sell(self, key: bytes) -> web.Response:
        self.sold[key] += 1
        self.last_at = time.monotonic()
        if self.sold[key] == 1:
            self.new_at.append(self.last_at)
            if len(self.new_at) == self.expect:
                say({"event": "last"})
        text = f"answer {key.hex()}{WORD * (self.tokens - 2)}"
        body = (
            '{"id":"x","object":"chat.completion","model":"m","choices":[{"index":0,'
            f'"finish_reason":"stop","message":{{"role":"assistant","content":"{text}"}}}}],'
            f'"usage":{{"prompt_tokens":20,"completion_tokens":{self.tokens},'
            f'"total_tokens":{self.tokens + 20}}}}}'
        )
        return web.Response(
            body=body.encode(), content_type="application/json", headers=self.rate_headers
        )

    async def stats(self, _: web.Request) -> web.StreamResponse:
        """Counts since the last reset."""
        first_at = self.first_at or 0.0
        most = self.new_at[: math.ceil(MOST * len(self.new_at))]
        return web.json_response(
            {
                "sold": sum(self.sold.values()),
                "contents": len(self.sold),
                "sold_again": sum(count - 1 for count in self.sold.values()),
                "outcomes": dict(self.outcomes),
                "max_in_flight": self.max_in_flight,
                "span_s": (self.last_at or 0.0) - first_at,
                "most_span_s": most[-1] - first_at if most else 0.0,
            }
        )

    async def reset(self, request: web.Request) -> web.StreamResponse:
        """Forget, with other settings."""
        settings = await request.json()
        self.latency_s = settings.get("latency_s", self.latency_s)
        self.faults = settings.get("faults", {})
        self.expect = settings.get("expect", 0)
        self.rate_headers = settings.get("rate_headers", {})
        self.sold.clear()
        self.outcomes.clear()
        self.new_at.clear()
        self.max_in_flight = self.in_flight
        self.first_at = self.last_at = None
        self.chance = random.Random(0)
        return web.json_response({})


async def list_models(_: web.Request) -> web.StreamResponse:
    """Any model will do."""
    return web.json_response({"data": [{"id": "m", "owned_by": "fake"}]})


def say(event: Mapping[str, object]) -> None:
    """One JSON line to whoever started this process."""
    print(json.dumps(event), flush=True)


@dataclass(frozen=True)
class Running:
    """A fake endpoint in a process of its own."""

    address: str
    process: subprocess.Popen[str]
    events: IO[str]

    @property
    def base_url(self) -> str:
        """What a client needs."""
        return f"{self.address}/v1"

    def stats(self) -> Stats:
        """Counts since the last reset; see `FakeEndpoint.stats`."""
        with urllib.request.urlopen(f"{self.address}/stats", timeout=10) as answer:
            found: Stats = json.loads(answer.read())
        return found

    def reset(self, **settings: object) -> None:
        """Forget what was sold; see the module."""
        request = urllib.request.Request(
            f"{self.address}/reset", json.dumps(settings).encode(), method="POST"
        )
        urllib.request.urlopen(request, timeout=10).close()


@contextmanager
def running(*flags: str) -> Iterator[Running]:
    """A fake endpoint while the block runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.fake_endpoint", *flags],
        cwd=Path(__file__).resolve().parents[1],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"the fake endpoint ended with {process.wait(10)}")
        yield Running(json.loads(line)["address"], process, process.stdout)
    finally:
        process.terminate()
        process.wait(10)


async def serve(endpoint: FakeEndpoint, port: int) -> None:
    """Serve until killed."""
    app = web.Application()
    app.router.add_post("/v1/chat/completions", endpoint.answer)
    app.router.add_get("/v1/models", list_models)
    app.router.add_get("/stats", endpoint.stats)
    app.router.add_post("/reset", endpoint.reset)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    host, bound = runner.addresses[0][:2]
    say({"address": f"http://{host}:{bound}"})
    await asyncio.Event().wait()


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency-s", type=float, default=0.2)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--retry-after-s", type=float, default=1.0)
    parser.add_argument("--expect", type=int, default=0)
    parser.add_argument("--faults", type=json.loads, default={}, help=f"shares of {FAULTS}")
    parser.add_argument("--rate-headers", type=json.loads, default={})
    flags = parser.parse_args()
    endpoint = FakeEndpoint(
        latency_s=flags.latency_s,
        tokens=flags.tokens,
        retry_after_s=flags.retry_after_s,
        faults=flags.faults,
        rate_headers=flags.rate_headers,
        expect=flags.expect,
    )
    asyncio.run(serve(endpoint, flags.port))


if __name__ == "__main__":
    main()
