"""The load test's clients tell the ends of a request apart; the service gives good ones."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvicorn

from benchmarks.serve_clients import Ending, run_clients
from benchmarks.serve_load import report
from moss.config.serve import ServeChatConfig
from serve.app import build_app
from serve.auth import ApiKeys
from tests.attacks.target import build_service

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
ANSWERS: dict[Ending, bytes] = {
    "broken": HEAD + b"Transfer-Encoding: chunked\r\n\r\n6\r\ndata: \r\n",
    "wrong": b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 2\r\n\r\n{}",
    "limited": b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 63\r\n\r\n"
    b'{"error": {"message":"", "type":"", "param":null, "code":null}}',
    "hung": HEAD + b"Content-Length: 9\r\n\r\n",
}


@contextlib.asynccontextmanager
async def answering(answer: bytes, *, hang: bool) -> AsyncIterator[str]:
    """A server that answers every request with the same bytes and then closes, or does not."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        if hang:
            await asyncio.sleep(2)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("ending", ANSWERS)
async def test_each_ending_has_its_name(ending: Ending) -> None:
    async with answering(ANSWERS[ending], hang=ending == "hung") as address:
        load = await run_clients(address, num_clients=4, seconds=1.2, request_timeout_s=0.4)
    assert load.endings[ending] >= 4
    others = set(load.endings) - {ending, "left"}
    assert others == set(), (load.endings, load.oddities)
    assert not report(load, [0.1], [])["ok"]


async def test_the_service_answers_limits_or_is_left_and_never_hangs(tmp_path: Path) -> None:
    service = build_service(tmp_path)
    service.config = ServeChatConfig.model_validate(
        {**service.config.model_dump(), "http": {"max_ongoing": 4, "retry_after_s": 1}}
    )
    server = uvicorn.Server(
        uvicorn.Config(build_app(service, ApiKeys()), port=0, log_level="warning")
    )
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.02)
    address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    load = await run_clients(address, num_clients=30, seconds=2.0, request_timeout_s=20)
    server.should_exit = True
    await task
    service.store.close()
    assert set(load.endings) <= {"answer", "limited", "left"}, load.oddities
    assert load.endings["answer"] > 0
    assert report(load, [0.1], [])["ok"]
    assert not report(load, [1.5], [])["ok"]
