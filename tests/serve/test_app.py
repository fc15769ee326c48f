from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from moss.chat_rendering import ChatRenderer
from moss.config.serve import HttpConfig, ServeChatConfig, TurnConfig
from moss.types import ToolName
from serve.app import build_app
from serve.auth import ApiKeys
from serve.chat_service import ChatService
from serve.page_routes import WEB
from serve.store import Store
from tests.serve.serving import one_model

CALCULATION = {"inner_thoughts": "A sum.", "commands": 'Calculate("12+7")', "moss": "12+7 = 19."}
Make = Callable[..., tuple[httpx.AsyncClient, ChatService, Any]]


@pytest.fixture
def make(
    renderer: ChatRenderer, scripted: Callable[..., Any], spies: dict[ToolName, Any], tmp_path: Path
) -> Iterator[Make]:
    stores: list[Store] = []

    def build(
        script: dict[str, str] | None = None, *, keys: str = "", http: dict[str, Any] | None = None
    ) -> tuple[httpx.AsyncClient, ChatService, Any]:
        engine = scripted(**(script or CALCULATION))
        config = ServeChatConfig(
            meta_version="tiny", http=HttpConfig(**(http or {})), turn=TurnConfig(temperature=0)
        )
        stores.append(Store(f"sqlite:///{tmp_path}/{len(stores)}/chat.sqlite"))
        service = ChatService(
            models=one_model(engine, renderer), tools=spies, store=stores[-1], config=config,
        )  # fmt: skip
        app = build_app(service, ApiKeys.load(config.http, {"MOSS_API_KEYS": keys}))
        return client_of(app), service, engine

    yield build
    for store in stores:
        store.close()


def client_of(app: FastAPI) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://chat.test")


def body(text: str = "What is 12+7?", **changes: Any) -> dict[str, Any]:
    return {"model": "MOSS-PAT", "messages": [{"role": "user", "content": text}], **changes}


def chunks(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in answer.text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


async def test_a_completion_reports_reply_tools_and_usage(
    make: Make, spies: dict[ToolName, Any]
) -> None:
    client, _, _ = make()
    answer = (await client.post("/v1/chat/completions", json=body())).json()
    message = answer["choices"][0]["message"]
    assert message["content"] == "12+7 = 19."
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert message["moss"]["commands"] == [{"api": "Calculate", "argument": "12+7"}]
    assert message["moss"]["results"][0]["text"] == "19"
    assert "tool_calls" not in message
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 0
    assert spies["calculator"].asked == ["12+7"]


async def test_a_stream_has_one_id_a_role_first_usage_last_and_then_done(make: Make) -> None:
    client, _, _ = make()
    answer = await client.post(
        "/v1/chat/completions", json=body(stream=True, stream_options={"include_usage": True})
    )
    parts = chunks(answer)
    assert len({(part["id"], part["created"], part["model"]) for part in parts}) == 1
    assert parts[0]["choices"][0]["delta"]["role"] == "assistant"
    assert parts[-1]["choices"] == []
    assert parts[-1]["usage"]["completion_tokens"] > 0
    assert parts[-2]["choices"][0]["finish_reason"] == "stop"
    deltas = [part["choices"][0]["delta"] for part in parts[:-1]]
    assert "".join(delta.get("content") or "" for delta in deltas) == "12+7 = 19."
    kinds = [delta["moss"]["type"] for delta in deltas if "moss" in delta]
    assert kinds == ["commands", "result", "done"]


@pytest.mark.parametrize(
    "off", [{"tool_choice": "none"}, {"moss": {"tools": {"calculator": False}}}]
)
async def test_switched_off_tools_do_not_run(
    make: Make, spies: dict[ToolName, Any], off: dict[str, Any]
) -> None:
    client, _, _ = make()
    answer = (await client.post("/v1/chat/completions", json=body(**off))).json()
    assert answer["choices"][0]["message"]["content"] == "12+7 = 19."
    assert not spies["calculator"].asked


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"model": "gpt-9"}, 404, "model"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "messages"),
        ({"messages": [{"role": "user", "content": " "}]}, 400, "messages"),
        ({"temperature": 3}, 400, "temperature"),
        ({"n": 2}, 400, "n"),
        ({"tools": [{"type": "function"}]}, 400, "tools"),
        ({"moss": {"tools": {"shell": True}}}, 400, "moss.tools"),
        ({"moss": {"qualty": 1}}, 400, "moss.qualty"),
        ({"moss": {"quality": 55}}, 400, "moss.quality"),
        ({"messages": [{"role": "user", "content": "word " * 900}]}, 400, "messages"),
    ],
)
async def test_mistakes_are_answered_in_form_naming_the_field(
    make: Make, change: dict[str, Any], status: int, param: str
) -> None:
    client, _, _ = make()
    answer = await client.post("/v1/chat/completions", json=body(**change))
    assert answer.status_code == status
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param


async def test_broken_json_long_bodies_and_unknown_paths_are_answered_in_form(make: Make) -> None:
    client, _, _ = make(http={"max_body_bytes": 2_000})
    for answer, status in (
        (await client.post("/v1/chat/completions", content=b"{"), 400),
        (await client.post("/v1/chat/completions", json=body("x" * 3_000)), 413),
        (await client.post("/v1/chat/completions", content=_endless(b"x" * 500, 8)), 413),
        (await client.get("/nothing"), 404),
        (await client.get("/static/..%2fapp.py"), 404),
        (await client.get("/app/images/..%2f..%2fpasswd"), 404),
        (await client.get("/app/images/abc"), 400),
        (await client.post("/v1/chat/completions", content=_lone_surrogate()), 400),
    ):
        assert answer.status_code == status, answer.text
        assert answer.json()["error"]["message"]


async def _endless(piece: bytes, times: int) -> Any:
    for _ in range(times):
        yield piece


def _lone_surrogate() -> bytes:
    return json.dumps(body("\ud800")).encode()


@pytest.mark.parametrize(
    "header",
    ["x-request-disconnect-disabled", "x-request-timeout-seconds", "x-serve-router-key"],
)
async def test_headers_that_steer_ray_serve_are_refused(make: Make, header: str) -> None:
    client, _, engine = make()
    answer = await client.post("/v1/chat/completions", json=body(), headers={header: "?1"})
    assert (answer.status_code, engine.prompts) == (400, [])


async def test_a_page_of_another_origin_cannot_post(make: Make) -> None:
    client, _, _ = make()
    foreign = {"origin": "http://evil.test"}
    answer = await client.post("/v1/chat/completions", json=body(), headers=foreign)
    assert answer.status_code == 403
    own = {"origin": "http://chat.test"}
    assert (await client.post("/v1/chat/completions", json=body(), headers=own)).is_success


async def test_every_private_route_wants_a_known_key(make: Make) -> None:
    client, _, _ = make(keys="right, other")
    routes = [
        ("POST", "/v1/chat/completions"), ("GET", "/v1/models"), ("GET", "/v1/models/x"),
        ("GET", "/v1/moss/tools"), ("GET", "/app/conversations"),
        ("GET", "/app/conversations/" + "0" * 32), ("DELETE", "/app/conversations/" + "0" * 32),
        ("POST", "/app/turns/" + "0" * 32 + "/rating"),
    ]  # fmt: skip
    for method, path in routes:
        sent = {"rating": 1} if path.endswith("rating") else body()
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "right"}):
            answer = await client.request(method, path, json=sent, headers=headers)
            assert answer.status_code == 401, path
    headers = {"authorization": "Bearer right"}
    assert (await client.get("/v1/models", headers=headers)).is_success


async def test_too_many_requests_get_429_in_form_with_retry_after(make: Make) -> None:
    client, _, engine = make(http={"max_ongoing": 1})
    engine.delay_s = 0.01
    first = asyncio.create_task(client.post("/v1/chat/completions", json=body()))
    await asyncio.sleep(0.05)
    for stream in (False, True):
        refused = await client.post("/v1/chat/completions", json=body(stream=stream))
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["type"] == "rate_limit_error"
    assert (await first).is_success
    assert (await client.post("/v1/chat/completions", json=body())).is_success


async def test_a_failing_engine_ends_a_stream_with_an_error_and_no_done(make: Make) -> None:
    client, service, engine = make()

    async def broken(*_: object) -> Any:
        raise RuntimeError("secret detail")
        yield

    engine.generate = broken
    answer = await client.post("/v1/chat/completions", json=body(stream=True))
    assert "[DONE]" not in answer.text
    assert '"error"' in answer.text
    assert "secret" not in answer.text
    assert (await client.post("/v1/chat/completions", json=body())).status_code == 500
    assert service._num_ongoing == 0


async def test_a_kept_conversation_is_continued_rated_shown_and_deleted(make: Make) -> None:
    client, service, engine = make()
    client.cookies.set("moss_user", "a" * 64)
    store = {"consent": "improve"}
    first = await client.post("/v1/chat/completions", json=body(moss={"store": store}))
    ids = first.json()["choices"][0]["message"]["moss"]
    store["conversation_id"] = ids["conversation_id"]
    await client.post("/v1/chat/completions", json=body("And 1+1?", moss={"store": store}))
    prompt = engine.renderer.tokenizer.decode(engine.prompts[-1])
    assert "What is 12+7?" in prompt
    assert "Calculate" in prompt
    rated = await client.post(f"/app/turns/{ids['turn_id']}/rating", json={"rating": 1})
    assert rated.is_success
    shown = (await client.get(f"/app/conversations/{ids['conversation_id']}")).json()
    assert [turn["human"] for turn in shown["turns"]] == ["What is 12+7?", "And 1+1?"]
    assert shown["turns"][0]["rating"] == 1
    assert [row.consent for row in service.store.consented_prompts()] == ["improve"] * 2
    stranger = client_of(client._transport.app)  # type: ignore[attr-defined]
    stranger.cookies.set("moss_user", "b" * 64)
    path = f"/app/conversations/{ids['conversation_id']}"
    assert (await stranger.get(path)).status_code == 404
    assert (await stranger.delete(path)).status_code == 404
    assert (await client.delete(path)).is_success
    assert service.store.consented_prompts() == []


async def test_regenerating_replaces_the_turn(make: Make) -> None:
    client, _, _ = make()
    first = await client.post("/v1/chat/completions", json=body(moss={"store": {}}))
    ids = first.json()["choices"][0]["message"]["moss"]
    store = {"conversation_id": ids["conversation_id"], "replace_turn": ids["turn_id"]}
    await client.post("/v1/chat/completions", json=body(moss={"store": store}))
    shown = (await client.get(f"/app/conversations/{ids['conversation_id']}")).json()
    assert len(shown["turns"]) == 1
    assert shown["turns"][0]["id"] != ids["turn_id"]


async def test_plain_api_calls_are_never_stored(make: Make) -> None:
    client, _, _ = make()
    await client.post("/v1/chat/completions", json=body())
    assert (await client.get("/app/conversations")).json() == []


async def test_the_page_has_a_strict_policy_and_only_its_own_files(make: Make) -> None:
    client, _, _ = make()
    page = await client.get("/")
    policy = page.headers["content-security-policy"]
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert "httponly" in page.headers["set-cookie"].lower()
    names = {path.name for path in WEB.iterdir()} - {"index.html", "licenses.txt"}
    assert {"app.js", "index.css", "icon.svg"} <= names
    for name in names:
        file = await client.get(f"/static/{name}")
        assert file.is_success
        hosts = set(re.findall(r"https?://([\w.-]+)", file.text))
        assert hosts <= {"www.w3.org", "github.com"}, "names of namespaces; links in error messages"
    assert set(re.findall(r'(?:src|href)="([^"]*)"', page.text)) <= {f"/static/{n}" for n in names}
    assert "connect-src 'self'" in policy
    assert "<script>" not in page.text
    assert " style=" not in page.text


async def test_health_ready_models_and_tools_answer(make: Make) -> None:
    client, _, _ = make()
    for path in ("/health", "/ready", "/v1/models", "/v1/models/MOSS-PAT", "/v1/moss/tools"):
        assert (await client.get(path)).is_success
