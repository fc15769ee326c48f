from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from fastapi import FastAPI

from moss.chat_rendering import ChatRenderer
from moss.config.serve import HttpConfig, ServeChatConfig, TurnConfig
from moss.types import ToolName
from serve.app import build_app
from serve.auth import ApiKeys
from serve.chat_service import ChatService
from serve.completion_schemas import CompletionRequest
from serve.page_routes import WEB
from serve.schemas import ChatRequest, MossOptions, StoreOptions
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
    "off",
    [
        {"tool_choice": "none"},
        {"moss": {"tools": {"calculator": False}}},
        {"moss": {"tools": {"calculator": True}, "max_tool_rounds": 0}},
    ],
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
        ({"logprobs": True}, 400, "logprobs"),
        ({"top_logprobs": 3}, 400, "top_logprobs"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format"),
        ({"logit_bias": {"50256": -100}}, 400, "logit_bias"),
        ({"frequency_penalty": 0.5}, 400, "frequency_penalty"),
        ({"top_k": 5}, 400, "top_k"),
        ({"stop": ["a"] * 5}, 400, "stop"),
        ({"stop": ["a", ""]}, 400, "stop.1"),
        ({"stop": 5}, 400, "stop"),
        ({"moss": {"max_tool_rounds": 2}}, 400, "moss.max_tool_rounds"),
        ({"moss": {"max_tool_rounds": -1}}, 400, "moss.max_tool_rounds"),
        ({"moss": {"store": {"concent": "none"}}}, 400, "moss.store.concent"),
        ({"stream": True, "stream_options": {"usage": True}}, 400, "stream_options.usage"),
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


async def test_one_round_of_tools_is_what_a_turn_has(
    make: Make, spies: dict[ToolName, Any]
) -> None:
    client, _, _ = make()
    await client.post("/v1/chat/completions", json=body(moss={"max_tool_rounds": 1}))
    assert spies["calculator"].asked == ["12+7"]


async def test_values_that_ask_for_nothing_and_harmless_fields_are_taken(make: Make) -> None:
    client, _, _ = make()
    asked: dict[str, Any] = {
        "n": 1, "logprobs": False, "top_logprobs": None, "response_format": {"type": "text"},
        "frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "tools": [],
        "functions": [], "function_call": "auto", "modalities": ["text"], "stop": None,
        "user": "u", "metadata": {"a": "b"}, "store": False, "service_tier": "auto",
        "safety_identifier": "s", "prompt_cache_key": "k", "parallel_tool_calls": True,
        "stream_options": {"include_obfuscation": False},
    }  # fmt: skip
    answer = await client.post("/v1/chat/completions", json=body(**asked))
    assert answer.is_success, answer.text
    sent_back = {**answer.json()["choices"][0]["message"], "refusal": None}
    talk = [*body()["messages"], sent_back, {"role": "user", "content": "And 1+1?"}]
    again = await client.post("/v1/chat/completions", json=body(messages=talk))
    assert again.is_success, again.text


def test_the_readme_says_what_a_request_may_hold() -> None:
    page = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    [block] = [part for part in page.split("```")[1::2] if part.startswith("yaml\nmoss:")]
    options = yaml.safe_load(block.removeprefix("yaml\n"))["moss"]
    assert set(options) == set(MossOptions.model_fields)
    assert set(options["store"]) == set(StoreOptions.model_fields)
    assert tuple(MossOptions.model_validate(options).include) == MossOptions().include
    rows = page.partition("| of OpenAI's API |")[2].partition("\n\n")[0]
    for kind in (ChatRequest, CompletionRequest):
        for name in {*kind.model_fields, *kind.ignored} - {"moss"}:
            assert f"`{name}" in rows, name


SONG = {"commands": "None", "moss": "the dish ran away with the spoon 盘子 and so on"}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        ("away", "the dish ran "),
        (["spoon", "ran away"], "the dish "),
        (["盘子"], "the dish ran away with the spoon "),
        (["the"], ""),
        (["nowhere", "away too"], SONG["moss"]),
        ([], SONG["moss"]),
    ],
)
async def test_a_reply_ends_before_its_stop_text(
    make: Make, stream: bool, stop: Any, expected: str
) -> None:
    client, _, engine = make(SONG)
    sent = body(stop=stop, stream=stream, moss={"store": {}})
    answer = await client.post("/v1/chat/completions", json=sent)
    if stream:
        choices = [part["choices"][0] for part in chunks(answer)]
        text = "".join(choice["delta"].get("content", "") for choice in choices)
        reason = choices[-1]["finish_reason"]
    else:
        [choice] = answer.json()["choices"]
        text, reason = choice["message"]["content"], choice["finish_reason"]
    assert (text, reason) == (expected, "stop")
    assert engine.closed == len(engine.prompts)
    whole = len(engine.renderer.tokenizer.encode(f" {SONG['moss']}"))
    commands = len(engine.renderer.tokenizer.encode(" None"))
    assert (engine.num_made < whole + commands) == (expected != SONG["moss"])


async def test_a_reply_cut_at_its_limit_has_not_stopped(make: Make) -> None:
    client, _, _ = make(SONG)
    sent = body(stop="spoon", max_tokens=3, tool_choice="none")
    answer = (await client.post("/v1/chat/completions", json=sent)).json()
    assert answer["choices"][0]["finish_reason"] == "length"


async def test_a_stop_text_ends_replies_and_not_commands(
    make: Make, spies: dict[ToolName, Any]
) -> None:
    client, _, _ = make()
    answer = await client.post("/v1/chat/completions", json=body(stop=["12", "Calc"]))
    assert spies["calculator"].asked == ["12+7"]
    assert answer.json()["choices"][0]["message"]["content"] == ""


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"temperature": 3}, "temperature: expected at most 2, but 3 came"),
        ({"temperature": "warm"}, 'temperature: expected a number, but "warm" came'),
        ({"stop": ["a"] * 5},
         "stop: expected a text or a list of at most 4 texts, but a list of 5 came"),
        ({"messages": []}, "messages: expected at least 1 items, but a list of 0 came"),
        ({"messages": [{"role": "tool"}]}, "messages.0.role: expected 'system', 'developer', "
         "'user' or 'assistant', but \"tool\" came"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
         "messages.0.content.0.type: expected 'text', but \"image_url\" came; "
         "messages.0.content.0.text is missing"),
        ({"messages": [{"role": "user", "content": 5}]},
         "messages.0.content: expected a text or a list of text parts, but 5 came"),
        ({"tools": [{"type": "function"}]}, "tools is not supported, but a list of 1 came: tools "
         "of the client are not run; moss.tools switches the server's own"),
        ({"moss": {"tools": {"calculator": "maybe"}}},
         'moss.tools.calculator: expected true or false, but "maybe" came'),
        ({"model": "m" * 300}, f'model: expected at most 200 characters, but "{"m" * 40}…" '
         "(300 characters) came"),
        ({"top_p": 0, "seed": 1.5, "n": 2, "qualty": 7},
         "top_p: expected more than 0, but 0 came; seed: expected a whole number, but 1.5 came; "
         "n is not supported, but 2 came: a request gets one answer; qualty is not a field that "
         "this service knows"),
        ({"a": 1, "b": 2, "c": 3, "seed": "x", "n": 2},
         'seed: expected a whole number, but "x" came; n is not supported, but 2 came: a request '
         "gets one answer; a is not a field that this service knows; b is not a field that this "
         "service knows; and 1 more"),
    ],
)  # fmt: skip
async def test_errors_name_every_field_with_what_came_and_what_was_expected(
    make: Make, change: dict[str, Any], told: str
) -> None:
    client, _, _ = make()
    answer = await client.post("/v1/chat/completions", json=body(**change))
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].endswith(told)


async def test_errors_of_json_numbers_paths_and_methods_say_what_came(make: Make) -> None:
    client, _, _ = make()
    json_type = {"content-type": "application/json"}

    async def told(method: str, path: str, content: bytes = b"") -> tuple[dict[str, Any], Any]:
        answer = await client.request(method, path, content=content, headers=json_type)
        return answer.json()["error"], answer.headers.get("allow")

    chat = "/v1/chat/completions"
    error, _ = await told("POST", chat, b'{"messages": [}')
    assert error["message"] == "the body is not JSON: Expecting value at character 14"
    assert (error["param"], error["code"]) == (None, "invalid_json")
    error, _ = await told("POST", chat, json.dumps(body(temperature=float("nan"))).encode())
    assert error["message"] == "temperature: expected a finite number, but NaN came"
    error, _ = await told("POST", chat)
    assert error["message"] == "the body is missing"
    error, _ = await told("POST", chat, b"[]")
    assert error["message"] == "the body: expected an object, but a list of 0 came"
    error, _ = await told("GET", "/v1/chat/completion")
    assert '"/v1/chat/completion"' in error["message"]
    error, allow = await told("GET", chat)
    assert (error["code"], allow) == ("method_not_allowed", "POST")
    error, allow = await told("PUT", f"/app/conversations/{'0' * 32}")
    assert allow == "DELETE, GET, HEAD, PATCH"


async def test_head_is_answered_as_get_is_without_the_body(make: Make) -> None:
    client, _, _ = make()
    for path in ("/", "/health", "/v1/models"):
        head, whole = await client.head(path), await client.get(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-type"] == whole.headers["content-type"]
        assert head.headers["content-length"] == whole.headers["content-length"]


async def test_broken_json_long_bodies_and_unknown_paths_are_answered_in_form(make: Make) -> None:
    client, _, _ = make(http={"max_body_bytes": 2_000})
    json_type = {"content-type": "application/json"}
    for answer, status in (
        (await client.post("/v1/chat/completions", content=b"{", headers=json_type), 400),
        (await client.post("/v1/chat/completions", content=b"{}"), 415),
        (await client.post("/v1/chat/completions", json=body("x" * 3_000)), 413),
        (await client.post("/v1/chat/completions", content=_endless(b"x" * 500, 8)), 413),
        (await client.get("/nothing"), 404),
        (await client.get("/static/..%2fapp.py"), 404),
        (await client.get("/app/images/..%2f..%2fpasswd"), 404),
        (await client.get("/app/images/abc"), 400),
        (
            await client.post("/v1/chat/completions", content=_lone_surrogate(), headers=json_type),
            400,
        ),
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
