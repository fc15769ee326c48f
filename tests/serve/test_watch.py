"""Each request's id, log line and metrics; and that none of them repeats what a user wrote."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from sqlalchemy.exc import OperationalError

from moss.config.serve_logs import LogConfig
from moss.live_metrics import SERVICE_SERIES, Series
from moss.metrics import UNITS, unit_of
from moss.tools.base import ToolOutput
from moss.types import ToolName
from serve import logs, meters, tool_workers
from serve.chat_service import ChatService
from serve.engines import CountedEngine, GenerateParams, TokenCount
from serve.store import StoreUnavailableError
from serve.store.database import answering
from serve.tool_workers import ToolWorker
from tests.serve.serving import client_of

CHAT = "/v1/chat/completions"
CANARY = "xylophone-4711"
SCRIPT = {"inner_thoughts": "A sum.", "commands": 'Calculate("12+7")', "moss": "12+7 = 19."}


class QuietWorker(ToolWorker):
    """Ends without what only Ray Serve awaits."""

    def __del__(self) -> None:  # type: ignore[override]
        return None


class Tally:
    """Keeps every measurement, and that its labels are those of its series."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, tuple[tuple[str, str], ...]], list[float]] = {}

    def record(self, series: Series, value: float, labels: dict[str, str]) -> None:
        assert set(labels) == set(series.labels), series.name
        self.values.setdefault((series.name, tuple(sorted(labels.items()))), []).append(value)

    def of(self, name: str, **labels: str) -> list[float]:
        return self.values.get((name, tuple(sorted(labels.items()))), [])


@pytest.fixture
def tally() -> Iterator[Tally]:
    kept = Tally()
    meters.record_in(kept)
    yield kept
    meters.record_in(None)


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What the service logs; the loggers are as they were afterwards."""
    loggers = [logging.getLogger(name) for name in logs.LOGGERS]
    before = [(logger.handlers, logger.level, logger.propagate) for logger in loggers]
    stream = io.StringIO()
    logs.configure_logs(LogConfig())
    for logger in loggers:
        handler = logger.handlers[0]
        assert isinstance(handler, logging.StreamHandler)
        handler.setStream(stream)
    yield stream
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.fixture
def engine(scripted: Callable[..., Any]) -> Any:
    return scripted(**SCRIPT)


@pytest_asyncio.fixture
async def client(service: ChatService) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(service) as made:
        yield made


def body(text: str = "What is 12+7?", **changes: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **changes}


def lines(written: io.StringIO, message: str = "request") -> list[dict[str, Any]]:
    found = [json.loads(line) for line in written.getvalue().splitlines()]
    return [line for line in found if line["message"] == message]


def test_every_series_is_named_as_metrics_are_and_told_what_it_means() -> None:
    names = [series.name for series in SERVICE_SERIES]
    assert len(set(names)) == len(names)
    for series in SERVICE_SERIES:
        assert unit_of(series.name) in UNITS
        assert series.about.endswith(".")
        assert bool(series.bounds) == (series.kind == "histogram")


async def test_a_turn_is_one_line_with_times_tokens_and_tools(
    client: httpx.AsyncClient, written: io.StringIO
) -> None:
    answer = await client.post(CHAT, json=body(), headers={"x-request-id": "my-own.id_7"})
    [line] = lines(written)
    assert answer.headers["x-request-id"] == line["request_id"] == "my-own.id_7"
    shown = {name: line[name] for name in ("method", "route", "status", "model", "key", "level")}
    assert shown == {
        "method": "POST", "route": CHAT, "status": 200, "model": "MOSS-PAT", "key": "open",
        "level": "info",
    }  # fmt: skip
    usage = answer.json()["usage"]
    assert line["prompt_tokens"] == usage["prompt_tokens"]
    assert line["completion_tokens"] == usage["completion_tokens"]
    [run] = line["tools"]
    assert (run["tool"], run["outcome"]) == ("calculator", "ok")
    parts = [line[f"{part}_s"] for part in ("thoughts", "commands", "tools", "reply")]
    assert 0 <= sum(parts) <= line["seconds"] < 10
    assert line["first_token_s"] <= line["seconds"]


@pytest.mark.parametrize("sent", ["", "a b", "x" * 65, "a/b", "ä"])
async def test_an_id_of_another_form_is_replaced(
    client: httpx.AsyncClient, written: io.StringIO, sent: str
) -> None:
    answer = await client.get("/health", headers={b"x-request-id": sent.encode()})
    [line] = lines(written)
    assert len(line["request_id"]) == 32
    assert answer.headers["x-request-id"] == line["request_id"]


async def test_concurrent_requests_keep_their_ids_down_to_engine_and_tool(
    client: httpx.AsyncClient, engine: Any, service: ChatService, written: io.StringIO
) -> None:
    engine.delay_s = 0.001
    seen: dict[str, str] = {}

    async def call(argument: str) -> ToolOutput:
        from serve.request_record import current_id

        seen[current_id()] = argument
        return ToolOutput(ok=True, layout="quoted", text="19")

    service.tools["calculator"].call = call  # type: ignore[method-assign]
    names = [f"request-{number}" for number in range(4)]
    await asyncio.gather(
        *(
            client.post(CHAT, json=body(stream=name[-1] in "02"), headers={"x-request-id": name})
            for name in names
        )
    )
    assert set(seen) == set(names)
    assert {params.request_id for params in engine.asked} == set(names)
    assert sorted(line["request_id"] for line in lines(written)) == names


async def test_metrics_count_requests_tokens_tools_and_times(
    client: httpx.AsyncClient, engine: Any, tally: Tally
) -> None:
    engine.script["commands"] = ' Calculate("12+7"), Text2Image("cat"), Shell("rm")'
    answer = await client.post(CHAT, json=body())
    assert tally.of("service/requests_count", route=CHAT, status="200", model="MOSS-PAT") == [1]
    assert tally.of("service/in_flight_count") == [1, 0]
    usage = answer.json()["usage"]
    assert tally.of("service/generated_tokens", model="MOSS-PAT") == [usage["completion_tokens"]]
    assert tally.of("service/prompt_tokens", model="MOSS-PAT") == [usage["prompt_tokens"]]
    assert tally.of("service/tool_calls_count", tool="calculator", outcome="ok") == [1]
    assert tally.of("service/tool_calls_count", tool="text_to_image", outcome="dropped") == [1]
    assert tally.of("service/tool_calls_count", tool="unknown", outcome="dropped") == [1]
    assert len(tally.of("service/tool_call_s", tool="calculator")) == 1
    assert len(tally.of("service/first_token_s", model="MOSS-PAT")) == 1
    for part in ("thoughts", "commands", "tools", "reply"):
        assert len(tally.of("service/part_s", part=part)) == 1


async def test_failing_tools_are_told_apart_from_calls_without_a_result(
    client: httpx.AsyncClient, service: ChatService, engine: Any, tally: Tally
) -> None:
    async def broken(argument: str) -> ToolOutput:
        raise RuntimeError(argument)

    async def none(argument: str) -> ToolOutput:
        return ToolOutput(ok=False, layout="plain")

    service.tools["calculator"].call = broken  # type: ignore[method-assign]
    service.tools["equation_solver"].call = none  # type: ignore[method-assign]
    engine.script["commands"] = ' Calculate("12+7"), Solve("x=1")'
    await client.post(CHAT, json=body())
    assert tally.of("service/tool_calls_count", tool="calculator", outcome="unavailable") == [1]
    assert tally.of("service/tool_calls_count", tool="equation_solver", outcome="no_result") == [1]


async def test_refusals_are_counted_by_reason_and_paths_of_clients_as_other(
    client: httpx.AsyncClient, service: ChatService, tally: Tally, written: io.StringIO
) -> None:
    with service.admitted():
        service._num_ongoing = service.config.http.max_ongoing
        await client.post(CHAT, json=body())
        service._num_ongoing = 1
    assert tally.of("service/refused_count", reason="too_many_requests") == [1]
    await client.get(f"/{CANARY}")
    await client.request(CANARY, CHAT)
    await client.get(f"/v1/models/{CANARY}")
    await client.post(CHAT, json=body(), headers={"x-serve-router": "1"})
    assert tally.of("service/requests_count", route="other", status="404", model="none") == [1]
    template = "/v1/models/{name:path}"
    assert tally.of("service/requests_count", route=template, status="404", model="none") == [1]
    assert tally.of("service/requests_count", route=CHAT, status="400", model="none") == [1]
    assert CANARY not in str(tally.values)
    assert CANARY not in written.getvalue()
    assert [line.get("code") for line in lines(written)] == [
        "too_many_requests", "not_found", "method_not_allowed", "model_not_found",
        "header_not_accepted",
    ]  # fmt: skip


async def test_broken_streams_are_counted_by_cause(
    client: httpx.AsyncClient, engine: Any, tally: Tally, written: io.StringIO
) -> None:
    async with client.stream("POST", CHAT, json=body(stream=True)) as whole:
        assert "[DONE]" in (await whole.aread()).decode()
    assert not tally.of("service/broken_streams_count", cause="failed")

    async def broken(*_: object) -> Any:
        raise RuntimeError(CANARY)
        yield

    engine.generate = broken
    await client.post(CHAT, json=body(stream=True))
    assert tally.of("service/broken_streams_count", cause="failed") == [1]
    assert lines(written)[-1]["broken_by"] == "failed"
    [error] = lines(written, "request failed")
    assert error["error"] == "RuntimeError"
    assert any("test_watch.py" in place for place in error["raised_at"])
    assert CANARY not in written.getvalue()


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
@pytest.mark.parametrize("how", ["says so", "is cancelled"])  # Ray Serve cancels the request
async def test_a_client_that_leaves_a_stream_is_told_from_a_failure(
    service: ChatService, engine: Any, tally: Tally, written: io.StringIO, path: str, how: str
) -> None:
    from serve.app import build_app
    from serve.auth import ApiKeys

    engine.delay_s = 0.01
    asked = body(stream=True) if path == CHAT else {"prompt": "What is", "stream": True}
    scope = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"x"), (b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1), "scheme": "http", "http_version": "1.1", "root_path": "",
    }  # fmt: skip
    begun = asyncio.Event()
    messages = [{"type": "http.request", "body": json.dumps(asked).encode()}]

    async def receive() -> Any:
        if messages:
            return messages.pop()
        await (begun if how == "says so" else asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            begun.set()

    answering = asyncio.create_task(build_app(service, ApiKeys())(scope, receive, send))
    await begun.wait()
    if how == "is cancelled":
        answering.cancel()
    await asyncio.wait({answering}, timeout=5)
    assert answering.cancelled() == (how == "is cancelled")
    assert tally.of("service/broken_streams_count", cause="client_left") == [1]
    assert not tally.of("service/broken_streams_count", cause="failed")
    [line] = lines(written)
    assert (line["level"], line["broken_by"], line.get("code")) == ("info", "client_left", None)
    assert not lines(written, "request failed")


async def test_nothing_that_users_write_reaches_the_logs(
    client: httpx.AsyncClient, service: ChatService, engine: Any, written: io.StringIO,
    tally: Tally, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    engine.script = {
        "inner_thoughts": f" {CANARY}", "commands": f' Calculate("{CANARY}"), {CANARY}("x")',
        "moss": f" {CANARY}",
    }  # fmt: skip
    kept = {"store": {"consent": "none"}}
    await client.post(CHAT, json=body(CANARY, moss=kept))
    engine.script["commands"] = f' Calculate("{CANARY}")'
    await client.post(CHAT, json=body(CANARY, stream=True))
    await client.post(CHAT, json=body(CANARY, model=CANARY))
    await client.post(CHAT, json=body(CANARY, moss={"tools": {CANARY: True}}))
    await client.post(CHAT, json=body(CANARY, moss={CANARY: True}))
    await client.post(CHAT, content=f'{{"{CANARY}'.encode())
    await client.post("/app/conversations/search", json={"query": CANARY})
    await client.get(f"/app/conversations/{CANARY}?limit={CANARY}")

    async def broken(prompt_ids: object, params: object) -> Any:
        raise ValueError(f"cannot generate after {CANARY}")
        yield

    monkeypatch.setattr(engine, "generate", broken)
    assert (await client.post(CHAT, json=body(CANARY))).status_code == 500
    monkeypatch.undo()

    def down(*_: object, **__: object) -> None:
        raise StoreUnavailableError(CANARY)

    monkeypatch.setattr(service.store, "search", down)
    assert (await client.post("/app/conversations/search", json={"query": "x"})).status_code == 503
    assert len(lines(written)) == 10
    assert CANARY not in written.getvalue()
    assert CANARY not in str(tally.values)


def test_error_messages_are_written_where_the_config_says_so() -> None:
    try:
        raise ValueError(CANARY)
    except ValueError as error:
        record = logging.LogRecord(
            "serve", logging.ERROR, "", 0, "failed", None, (ValueError, error, None)
        )
    told = json.loads(logs.JsonLines(error_messages=True).format(record))
    assert told["error_message"] == CANARY
    assert CANARY not in logs.JsonLines(error_messages=False).format(record)


async def test_tool_workers_log_calls_by_request_and_keep_broken_tools_quiet(
    written: io.StringIO, monkeypatch: pytest.MonkeyPatch, spies: dict[ToolName, Any]
) -> None:
    from moss.config.tools import ToolsConfig

    monkeypatch.setattr(tool_workers, "build_tool", lambda name, _: spies[name])
    monkeypatch.setattr(tool_workers, "configure_logs", lambda _: None)
    worker = QuietWorker("calculator", ToolsConfig(), LogConfig())
    assert (await worker.call(CANARY, "request-1")).ok

    async def broken(argument: str) -> ToolOutput:
        raise RuntimeError(argument)

    spies["calculator"].call = broken
    output = await worker.call(CANARY, "request-2")
    assert (output.ok, output.flags) == (False, ("unavailable",))
    assert lines(written, "tool call")[0]["request_id"] == "request-1"
    assert lines(written, "tool failed")[0]["request_id"] == "request-2"
    assert CANARY not in written.getvalue() + output.reason


def test_each_time_the_database_is_away_is_counted(tally: Tally) -> None:
    with pytest.raises(StoreUnavailableError), answering():
        raise OperationalError("SELECT 1", {}, sqlite3.OperationalError("database is locked"))
    with answering():
        pass
    assert tally.of("service/store_errors_count") == [1]


async def test_engines_are_told_whose_generation_it_is(engine: Any) -> None:
    counted = CountedEngine(engine, TokenCount(), "request-1")
    async for _ in counted.generate([5, 6], GenerateParams(4, ())):
        pass
    assert engine.asked[0].request_id == "request-1"
