"""API keys through the real application: who gets in, with which tools, how much and how fast."""

from __future__ import annotations

import asyncio
import json
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from fastapi import FastAPI

from moss.api_keys import ApiKeyFile, key_digest
from moss.chat_rendering import ChatRenderer
from moss.config.serve import HttpConfig, ServeChatConfig, TurnConfig
from moss.errors import ConfigError
from moss.types import TOOL_NAMES, ToolName
from serve.app import build_app
from serve.auth import ApiKeys
from serve.chat_service import ChatService
from serve.errors import ApiError
from serve.store import Store
from tests.serve.serving import one_model

CHAT = "/v1/chat/completions"
SCRIPT = {"inner_thoughts": "A sum.", "commands": 'Calculate("12+7")', "moss": "12+7 = 19."}


@dataclass
class Service:
    """The application, its file of keys and its scripted engine."""

    app: FastAPI
    file: Path
    engine: Any
    client: httpx.AsyncClient

    async def ask(self, key: str = "k", **changes: Any) -> httpx.Response:
        return await self.client.post(CHAT, json=body(**changes), headers=bearer(key))

    async def get(self, path: str, key: str = "k") -> httpx.Response:
        return await self.client.get(path, headers=bearer(key))


Open = Callable[..., Service]


def body(**changes: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "What is 12+7?"}], **changes}


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def write_keys(file: Path, **entries: dict[str, Any]) -> None:
    """A file of keys, each named like its label."""
    keys = [{"sha256": key_digest(key), "label": key, **entry} for key, entry in entries.items()]
    file.write_text(yaml.safe_dump({"keys": keys}), encoding="utf-8")


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


@pytest.fixture
def serve(
    renderer: ChatRenderer, scripted: Callable[..., Any], spies: dict[ToolName, Any], tmp_path: Path
) -> Iterator[Open]:
    store = Store(f"sqlite:///{tmp_path}/chat.sqlite")

    def build(**entries: dict[str, Any]) -> Service:
        file = tmp_path / "keys.yaml"
        write_keys(file, **entries)
        engine = scripted(**SCRIPT)
        config = ServeChatConfig(
            meta_version="tiny", http=HttpConfig(api_key_file=str(file)),
            turn=TurnConfig(temperature=0),
        )  # fmt: skip
        chat = ChatService(
            models=one_model(engine, renderer), tools=spies, store=store, config=config,
        )  # fmt: skip
        app = build_app(chat, ApiKeys.load(config.http, {}))
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        client = httpx.AsyncClient(transport=transport, base_url="http://chat.test")
        return Service(app, file, engine, client)

    yield build
    store.close()


# ---- who gets in ------------------------------------------------------------------------------


async def test_each_reason_for_refusing_a_key_has_its_code_and_message(serve: Open) -> None:
    service = serve(
        old={"expires": "2020-01-01"}, gone={"revoked": True}, k={"expires": "2999-01-01"},
        both={"revoked": True, "expires": "2020-01-01"},
    )  # fmt: skip
    refused = {
        "missing_api_key": await service.client.post(CHAT, json=body()),
        "invalid_api_key": await service.ask("other"),
        "expired_api_key": await service.ask("old"),
        "revoked_api_key": await service.ask("gone"),
    }
    assert {name: code(answer) for name, answer in refused.items()} == {
        name: (401, name) for name in refused
    }
    assert len({answer.json()["error"]["message"] for answer in refused.values()}) == 4
    assert {answer.json()["error"]["type"] for answer in refused.values()} == {
        "authentication_error"
    }
    assert code(await service.ask("both")) == (401, "revoked_api_key")
    assert service.engine.prompts == []
    assert (await service.ask("k")).is_success


async def test_a_key_is_revoked_changed_and_added_without_a_restart(serve: Open) -> None:
    service = serve(k={}, other={})
    assert (await service.ask("k")).is_success
    write_keys(service.file, k={"revoked": True}, other={"tools": []}, new={})
    assert code(await service.ask("k")) == (401, "revoked_api_key")
    assert (await service.get("/v1/moss/tools", "other")).json() == {"tools": []}
    assert (await service.ask("new")).is_success
    write_keys(service.file)
    assert code(await service.ask("new")) == (401, "invalid_api_key")


async def test_a_file_that_became_invalid_keeps_the_old_keys_and_is_reported(
    serve: Open, caplog: pytest.LogCaptureFixture
) -> None:
    service = serve(k={}, gone={"revoked": True})
    service.file.write_text("keys: [oops\n", encoding="utf-8")
    assert (await service.ask("k")).is_success
    assert code(await service.ask("gone")) == (401, "revoked_api_key")
    assert "stay as they were" in caplog.text


async def test_keys_of_one_label_share_a_history_and_others_do_not(serve: Open) -> None:
    service = serve(k={}, renewed={"label": "k"}, other={})
    await service.ask("k", moss={"store": {}})
    titles = {key: len((await service.get("/app/conversations", key)).json())
              for key in ("k", "renewed", "other")}  # fmt: skip
    assert titles == {"k": 1, "renewed": 1, "other": 0}


def test_keys_of_the_environment_and_of_the_file_count_and_the_files_entry_wins(
    tmp_path: Path,
) -> None:
    write_keys(tmp_path / "keys.yaml", k={"revoked": True}, mine={})
    config = HttpConfig(api_key_file=str(tmp_path / "keys.yaml"))
    keys = ApiKeys.load(config, {"MOSS_API_KEYS": "k, other"})
    assert keys.check("Bearer mine").label == "mine"
    assert keys.check("bearer other").label == "MOSS_API_KEYS #2"
    with pytest.raises(ApiError, match="revoked"):
        keys.check("Bearer k")


def test_a_file_without_entries_lets_nobody_in(tmp_path: Path) -> None:
    write_keys(tmp_path / "keys.yaml")
    keys = ApiKeys.load(HttpConfig(api_key_file=str(tmp_path / "keys.yaml")), {})
    assert keys.required
    for header in (None, "Bearer ", "Bearer  ", "Bearer k"):
        with pytest.raises(ApiError):
            keys.check(header)


def test_an_open_network_wants_keys_and_a_named_file_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="api_key_file"):
        ApiKeys.load(HttpConfig(host="0.0.0.0"), {})
    with pytest.raises(ConfigError, match="make_api_key"):
        ApiKeys.load(HttpConfig(api_key_file=str(tmp_path / "none.yaml")), {})
    assert not ApiKeys.load(HttpConfig(), {}).required


def test_keys_travel_to_a_replica_and_go_on_watching_the_file(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    write_keys(file, k={})
    keys = pickle.loads(pickle.dumps(ApiKeys(file=ApiKeyFile(str(file)))))
    assert keys.check("Bearer k").label == "k"
    write_keys(file, k={"revoked": True})
    with pytest.raises(ApiError, match="revoked"):
        keys.check("Bearer k")


# ---- what a key is for --------------------------------------------------------------------------


async def test_a_tool_is_on_only_by_service_and_key_and_request(serve: Open) -> None:
    scopes: dict[str, list[str] | None] = {
        "all": None, "none": [], "one": ["calculator"], "other": ["web_search", "text_to_image"],
    }  # fmt: skip
    service = serve(**{name: {} if tools is None else {"tools": tools}
                       for name, tools in scopes.items()})  # fmt: skip
    defaults = ServeChatConfig().default_tools
    for (name, scope), tool, said in product(scopes.items(), TOOL_NAMES, (None, True, False)):
        request = {} if said is None else {"tools": {tool: said}}
        answer = await service.ask(name, moss=request)
        in_scope = scope is None or tool in scope
        if said and not in_scope:
            assert code(answer) == (403, "tool_not_allowed")
            assert tool in answer.json()["error"]["message"]
            assert answer.json()["error"]["param"] == "moss.tools"
            continue
        wanted = tool in defaults if said is None else said
        effective = answer.json()["choices"][0]["message"]["moss"]["effective_tools"]
        assert (tool in effective) == (in_scope and wanted), (name, tool, said)


async def test_a_tool_outside_the_scope_does_not_run_whatever_the_model_writes(
    serve: Open, spies: dict[ToolName, Any]
) -> None:
    service = serve(k={"tools": ["web_search"]})
    answer = await service.ask()
    assert answer.json()["choices"][0]["message"]["moss"]["commands"] == []
    assert not spies["calculator"].asked


async def test_tools_outside_the_scope_are_not_offered(serve: Open) -> None:
    service = serve(k={"tools": ["calculator"]}, all={})
    for path in ("/v1/moss/tools", "/app/settings"):
        names = {key: [tool["name"] for tool in (await service.get(path, key)).json()["tools"]]
                 for key in ("k", "all")}  # fmt: skip
        assert names == {"k": ["calculator"], "all": list(TOOL_NAMES)}
    public = (await service.client.get("/app/settings")).json()
    assert len(public["tools"]) == len(TOOL_NAMES)
    assert public["needs_key"]


async def test_a_model_outside_the_scope_is_refused_and_not_listed(serve: Open) -> None:
    service = serve(k={"models": ["MOSS-SFT"]}, pat={"models": ["MOSS-PAT"]})
    assert code(await service.ask("k")) == (403, "model_not_allowed")
    assert code(await service.ask("k", model="MOSS-PAT")) == (403, "model_not_allowed")
    assert code(await service.ask("k", model="MOSS-SFT")) == (404, "model_not_found")
    assert code(await service.get("/v1/models/MOSS-PAT", "k")) == (403, "model_not_allowed")
    assert (await service.get("/v1/models", "k")).json()["data"] == []
    assert (await service.ask("pat")).is_success
    assert [row["id"] for row in (await service.get("/v1/models", "pat")).json()["data"]] == [
        "MOSS-PAT"
    ]


# ---- how much and how fast ----------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_requests_beyond_the_limit_get_429_in_form(serve: Open, stream: bool) -> None:
    service = serve(k={"requests_per_minute": 2}, other={"requests_per_minute": 2})
    for remaining in ("1", "0"):
        answer = await service.ask(stream=stream)
        assert answer.is_success
        assert answer.headers["x-ratelimit-limit-requests"] == "2"
        assert answer.headers["x-ratelimit-remaining-requests"] == remaining
        assert 0 < float(answer.headers["x-ratelimit-reset-requests"].rstrip("s")) <= 60
        assert "x-ratelimit-limit-tokens" not in answer.headers
    refused = await service.ask(stream=stream)
    assert code(refused) == (429, "requests_per_minute_reached")
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert 20 <= int(refused.headers["retry-after"]) <= 30
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert (await service.get("/v1/models")).is_success  # costs nothing, so is not limited
    assert (await service.ask("other", stream=stream)).is_success


@pytest.mark.parametrize("stream", [False, True])
async def test_a_key_pays_the_tokens_that_usage_tells(serve: Open, stream: bool) -> None:
    service = serve(k={"tokens_per_minute": 1}, free={})
    used = (await service.ask("free")).json()["usage"]["total_tokens"]
    assert (await service.ask(stream=stream)).is_success
    refused = await service.ask(stream=stream)
    assert code(refused) == (429, "tokens_per_minute_reached")
    assert refused.headers["x-ratelimit-limit-tokens"] == "1"
    assert refused.headers["x-ratelimit-remaining-tokens"] == "0"
    owed_s = 60 * (used - 1)
    assert owed_s - 10 <= int(refused.headers["retry-after"]) <= owed_s


async def test_every_answer_of_a_limited_key_tells_its_limits(serve: Open) -> None:
    service = serve(k={"requests_per_minute": 100, "tokens_per_minute": 10_000}, free={})
    too_long = [{"role": "user", "content": "x" * (1 << 21)}]

    async def broken(*_: object) -> Any:
        raise RuntimeError("secret")
        yield

    answers = [
        (200, await service.ask()), (400, await service.ask(temperature=9)),
        (403, await service.client.post(CHAT, json=body(), headers=bearer("k")
                                        | {"origin": "http://evil.test"})),
        (404, await service.ask(model="gpt-9")), (404, await service.get("/nothing")),
        (413, await service.ask(messages=too_long)), (200, await service.get("/v1/models")),
        (200, await service.get("/app/conversations")),
    ]  # fmt: skip
    service.engine.generate = broken
    answers.append((500, await service.ask()))
    for status, answer in answers:
        assert answer.status_code == status
        for what, limit in (("requests", "100"), ("tokens", "10000")):
            assert answer.headers[f"x-ratelimit-limit-{what}"] == limit
            assert int(answer.headers[f"x-ratelimit-remaining-{what}"]) <= int(limit)
            assert answer.headers[f"x-ratelimit-reset-{what}"].endswith("s")
        assert answer.headers["x-request-id"]
    assert not [name for name in (await service.ask("free")).headers if "ratelimit" in name]


@pytest.mark.parametrize("stream", [False, True])
async def test_requests_at_once_are_limited_by_key(serve: Open, stream: bool) -> None:
    service = serve(k={"max_ongoing": 1}, other={"max_ongoing": 1})
    service.engine.delay_s = 0.01
    first = asyncio.create_task(service.ask(stream=stream))
    await asyncio.sleep(0.05)
    refused = await service.ask(stream=stream)
    assert code(refused) == (429, "max_ongoing_reached")
    assert int(refused.headers["retry-after"]) == HttpConfig().retry_after_s
    assert (await service.ask("other")).is_success
    assert (await first).is_success
    assert (await service.ask(stream=stream)).is_success


async def test_raising_a_limit_in_the_file_counts_at_once(serve: Open) -> None:
    service = serve(k={"requests_per_minute": 1, "max_ongoing": 1})
    assert (await service.ask()).is_success
    assert code(await service.ask()) == (429, "requests_per_minute_reached")
    write_keys(service.file, k={})
    assert (await service.ask()).is_success


# ---- requests that end badly --------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failed_request_gives_its_place_back_and_pays_for_its_tokens(
    serve: Open, stream: bool
) -> None:
    service = serve(k={"max_ongoing": 1, "tokens_per_minute": 10_000})
    generate = service.engine.generate

    async def breaks_off(*args: Any) -> Any:
        async for delta in generate(*args):
            yield delta
            raise RuntimeError("the engine died")

    service.engine.generate = breaks_off
    for _ in range(2):
        await service.ask(stream=stream)
    service.engine.generate = generate
    asked = service.engine.prompts
    answer = await service.get("/v1/models")
    paid = sum(len(prompt) + 1 for prompt in asked)
    assert len(asked) == 2
    left = int(answer.headers["x-ratelimit-remaining-tokens"])
    assert 10_000 - paid <= left < 10_000
    assert (await service.ask(stream=stream)).is_success


@dataclass
class Leaver:
    """A client that speaks ASGI itself, and leaves when it has what it came for."""

    app: FastAPI
    spec: str

    async def ask(self, *, stream: bool, leave_at: str) -> None:
        """`leave_at`: `start` (of the answer), `reply` (its first text), `thought` (before it)."""
        gone = asyncio.Event()
        if leave_at == "thought":
            asyncio.get_running_loop().call_later(0.05, gone.set)
        sent = [{"type": "http.request", "body": json.dumps(body(stream=stream)).encode()}]

        async def receive() -> Any:
            if sent:
                return sent.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            started = message["type"] == "http.response.start" and leave_at == "start"
            if started or b'"content": "1' in message.get("body", b""):
                gone.set()
            if gone.is_set():
                raise OSError("the connection is closed")

        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": self.spec}, "path": CHAT,
            "raw_path": CHAT.encode(), "method": "POST", "query_string": b"", "root_path": "",
            "scheme": "http", "http_version": "1.1", "server": ("chat.test", 80),
            "headers": [(b"authorization", b"Bearer k"), (b"content-type", b"application/json")],
        }  # fmt: skip
        with pytest.raises(Exception, match=r"^$|connection is closed|TaskGroup"):
            await asyncio.wait_for(self.app(scope, receive, send), 10)


@pytest.mark.parametrize("spec", ["2.0", "2.4"])
@pytest.mark.parametrize(
    ("stream", "leave_at"), [(True, "start"), (True, "reply"), (False, "thought")]
)
async def test_a_client_that_leaves_gives_its_place_back_and_pays_for_its_tokens(
    serve: Open, spec: str, stream: bool, leave_at: str
) -> None:
    service = serve(k={"max_ongoing": 1, "tokens_per_minute": 10_000})
    service.engine.delay_s = 0.005
    for _ in range(2):
        await Leaver(service.app, spec).ask(stream=stream, leave_at=leave_at)
    await asyncio.sleep(0.02)
    made = service.engine.num_made
    headers = (await service.get("/v1/models")).headers
    left = int(headers["x-ratelimit-remaining-tokens"])
    assert left < 10_000 - made
    assert service.engine.closed == len(service.engine.prompts)
    assert (await service.ask()).is_success


async def test_a_stream_that_is_cancelled_gives_its_place_back(serve: Open) -> None:
    service = serve(k={"max_ongoing": 1})
    service.engine.delay_s = 0.01
    for stream in (True, False):
        request = asyncio.create_task(service.ask(stream=stream))
        await asyncio.sleep(0.05)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
    service.engine.delay_s = 0
    assert (await service.ask()).is_success
    assert service.engine.closed == len(service.engine.prompts)
