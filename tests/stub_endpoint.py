"""An OpenAI-compatible endpoint in a thread, which answers by a function of the request."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from aiohttp import web

Answer = str | web.Response
Responder = Callable[[dict[str, object]], Answer]


@dataclass
class StubEndpoint:
    """What the endpoint was asked, and how it answers."""

    respond: Responder
    models: dict[str, str] = field(default_factory=lambda: {"gpt-4": "stub", "m": "stub"})
    key: str | None = None
    bodies: list[dict[str, object]] = field(default_factory=list)
    sold: Counter[str] = field(default_factory=Counter)
    base_url: str = ""
    in_flight: int = 0
    max_in_flight: int = 0
    delay_s: float = 0.0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if self.key is not None and request.headers.get("Authorization") != f"Bearer {self.key}":
            return error(401, "bad key")
        body = await request.json()
        self.bodies.append(body)
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        await asyncio.sleep(self.delay_s)
        self.in_flight -= 1
        answer = self.respond(body)
        if isinstance(answer, web.Response):
            return answer
        self.sold[repr(sorted(body.items(), key=str))] += 1
        choice: dict[str, object] = {"index": 0, "finish_reason": "stop"}
        if request.path.endswith("/chat/completions"):
            choice["message"] = {"role": "assistant", "content": answer}
        else:
            choice["text"] = answer
        usage = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
        return web.json_response({"id": "x", "choices": [choice], "usage": usage})

    async def list_models(self, request: web.Request) -> web.StreamResponse:
        if self.key is not None and request.headers.get("Authorization") != f"Bearer {self.key}":
            return error(401, "bad key")
        data = [{"id": name, "owned_by": owner} for name, owner in self.models.items()]
        return web.json_response({"object": "list", "data": data})


def error(
    status: int, message: str, *, code: str | None = None, retry_after: str | None = None
) -> web.Response:
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    body = {"error": {"message": message, "code": code, "type": "stub"}}
    return web.json_response(body, status=status, headers=headers)


@contextmanager
def running(stub: StubEndpoint) -> Iterator[StubEndpoint]:
    """Serve on a free port of the loopback interface while the block runs."""
    loop = asyncio.new_event_loop()
    started = threading.Event()

    async def serve() -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", stub.handle)
        app.router.add_post("/v1/completions", stub.handle)
        app.router.add_get("/v1/models", stub.list_models)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        stub.base_url = f"http://{host}:{port}/v1"
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    def run() -> None:
        asyncio.set_event_loop(loop)
        with suppress(asyncio.CancelledError):
            loop.run_until_complete(task)

    task = loop.create_task(serve())
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield stub
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(10)
