"""A database that is away or locked: an answer in form, and service again when it is back."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from moss.chat_rendering import ChatRenderer
from moss.config.serve import ServeChatConfig, TurnConfig
from moss.types import ToolName
from serve.app import build_app
from serve.auth import ApiKeys
from serve.chat_service import ChatService
from serve.store import Store, StoreUnavailableError
from tests.serve.serving import one_model
from tests.serve.test_store import turn_of

Make = Callable[[Store], httpx.AsyncClient]
KEPT = {"messages": [{"role": "user", "content": "Hi there"}], "moss": {"store": {}}}


@pytest.fixture
def make(renderer: ChatRenderer, scripted: Callable[..., Any], spies: dict[ToolName, Any]) -> Make:
    def build(store: Store) -> httpx.AsyncClient:
        service = ChatService(
            models=one_model(scripted(moss="Hello."), renderer), tools=spies, store=store,
            config=ServeChatConfig(meta_version="tiny", turn=TurnConfig(temperature=0)),
        )  # fmt: skip
        transport = httpx.ASGITransport(build_app(service, ApiKeys()), raise_app_exceptions=False)
        return httpx.AsyncClient(
            transport=transport, base_url="http://chat.test", cookies={"moss_user": "a" * 64}
        )

    return build


def refused(answer: httpx.Response) -> bool:
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (503, "store_unavailable"), answer.text
    assert error["type"] == "server_error"
    return int(answer.headers["retry-after"]) > 0


@pytest.mark.postgres
async def test_requests_get_503_while_postgres_is_away_and_service_when_it_is_back(
    make: Make, postgres: Any
) -> None:
    postgres.sql("CREATE DATABASE outage")
    store = Store(postgres.url("outage"))
    client = make(store)
    first = await client.post("/v1/chat/completions", json=KEPT)
    kept = first.json()["choices"][0]["message"]["moss"]["conversation_id"]
    await asyncio.to_thread(postgres.stop)
    try:
        for method, path in (
            ("GET", "/app/conversations"), ("GET", f"/app/conversations/{kept}"),
            ("DELETE", f"/app/conversations/{kept}"), ("GET", "/app/export"),
        ):  # fmt: skip
            started = time.monotonic()
            assert refused(await client.request(method, path))
            assert time.monotonic() - started < 10
        assert refused(await client.post("/v1/chat/completions", json=KEPT))
        plain = await client.post("/v1/chat/completions", json={**KEPT, "moss": {}})
        assert plain.json()["choices"][0]["message"]["content"] == "Hello."
        assert (await client.get("/health")).is_success
    finally:
        await asyncio.to_thread(postgres.start)
    assert (await client.get(f"/app/conversations/{kept}")).json()["turns"][0]["moss"] == "Hello."
    assert (await client.post("/v1/chat/completions", json=KEPT)).is_success
    store.close()


@pytest.mark.postgres
async def test_an_answer_is_kept_once_though_postgres_restarts_while_it_is_made(
    make: Make, postgres: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres.sql("CREATE DATABASE restart")
    store = Store(postgres.url("restart"))
    client = make(store)
    write = store.add_turn
    losses: list[tuple[str, str]] = []

    def written_but_not_told(*args: Any, **kw: Any) -> tuple[str, str]:
        ids = write(*args, **kw)
        if not losses:
            losses.append(ids)
            postgres.stop()
            postgres.start()
            raise StoreUnavailableError("the connection broke after the commit")
        return ids

    monkeypatch.setattr(store, "add_turn", written_but_not_told)
    answer = await client.post("/v1/chat/completions", json=KEPT)
    moss = answer.json()["choices"][0]["message"]["moss"]
    assert [(moss["conversation_id"], moss["turn_id"])] == losses
    assert len((await client.get("/app/conversations")).json()) == 1
    store.close()


async def test_a_locked_sqlite_file_is_503_in_bounded_time_and_holds_up_nobody_else(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.store.database.BUSY_TIMEOUT_S", 0.3)
    store = Store(f"sqlite:///{tmp_path}/chat.sqlite")
    client = make(store)
    kept, _ = store.add_turn("x", None, turn_of(), replaces=None)
    with closing(sqlite3.connect(tmp_path / "chat.sqlite", isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        delete = asyncio.create_task(client.delete(f"/app/conversations/{kept}"))
        await asyncio.sleep(0.05)
        # Readers do not wait for writers, and the event loop waits for neither.
        started = time.monotonic()
        assert (await client.get("/app/conversations")).json() == []
        assert time.monotonic() - started < 0.25
        assert refused(await delete)
        holder.execute("ROLLBACK")
    assert (await client.delete(f"/app/conversations/{kept}")).status_code == 404
    store.close()


def test_no_server_at_the_start_is_an_error_in_seconds() -> None:
    started = time.monotonic()
    with pytest.raises(StoreUnavailableError):
        Store("postgresql://moss@127.0.0.1:9/moss")
    assert time.monotonic() - started < 10
