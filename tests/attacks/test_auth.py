"""Keys on every route of the application, and users kept apart."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.routing import Route

from moss.api_keys import key_digest
from moss.config.serve import HttpConfig
from serve.app import build_app
from serve.auth import ApiKeys
from serve.gate import PUBLIC_FOLDERS, PUBLIC_PATHS, is_public
from tests.attacks.conftest import CHAT, Target, assert_in_form, body
from tests.attacks.counting import attack
from tests.attacks.target import KEYS, build_service, key, write_keys

OPEN_ON_PURPOSE = {"/", "/health", "/ready", "/app/settings", "/static/{name}",
                   "/app/images/{image_id}"}  # fmt: skip
BAD = {
    "no key": {},
    "a wrong key": {"authorization": "Bearer wrong"},
    "an empty key": {"authorization": "Bearer "},
    "a revoked key": {"authorization": f"Bearer {key('gone')}"},
    "an expired key": {"authorization": f"Bearer {key('late')}"},
    "the hash of a key": {"authorization": "Bearer " + hmac.new(b"", b"", "sha256").hexdigest()},
    "another scheme": {"authorization": f"Basic {key('alice')}"},
    "a key without scheme": {"authorization": key("alice")},
    "another header": {"x-api-key": key("alice")},
    "a cookie": {"cookie": f"api_key={key('alice')}; authorization=Bearer {key('alice')}"},
    "two keys in one": {"authorization": f"Bearer {key('alice')}, Bearer {key('bob')}"},
    "a key with more behind it": {"authorization": f"Bearer {key('alice')}x"},
    "a key in capitals": {"authorization": f"Bearer {key('alice').upper()}"},
    "a forwarded identity": {"x-forwarded-user": "alice", "x-forwarded-for": "127.0.0.1"},
}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("auth")
    write_keys(folder / "keys.yaml", KEYS)
    service = build_service(folder)
    yield build_app(service, ApiKeys.load(service.config.http, {}))
    service.store.close()


def routes(app: Any) -> list[tuple[str, str]]:
    """Every method and path template of the application."""
    found = [(method, route.path) for route in app.routes if isinstance(route, Route)
             for method in sorted(route.methods or ())]  # fmt: skip
    assert len(found) >= 14
    return found


def filled(template: str) -> str:
    return re.sub(r"\{[^}]*\}", "0" * 32, template)


def test_only_these_routes_are_public(app: Any) -> None:
    public = {path for _, path in routes(app) if is_public(filled(path))}
    page = {path for path in public if path.startswith(PUBLIC_FOLDERS) or path == "/"}
    assert public - page <= PUBLIC_PATHS
    assert public <= OPEN_ON_PURPOSE | page
    private = {path for _, path in routes(app)} - public
    assert {CHAT, "/v1/models", "/app/conversations"} <= private


@attack("bad keys on every route", BAD)
async def test_every_private_route_refuses(app: Any, case: dict[str, str]) -> None:
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://chat.test") as client:
        for method, template in routes(app):
            path = filled(template)
            if is_public(path):
                continue
            answer = await client.request(
                method, path, content=b"{broken", headers=case, params={"api_key": key("alice")}
            )
            assert answer.status_code == 401, (method, path, answer.text)
            if method != "HEAD":
                assert_in_form(answer, 401)
                assert key("alice") not in answer.text


async def test_a_path_that_does_not_exist_is_private_too(app: Any) -> None:
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://chat.test") as client:
        for path in ("/v2/anything", "/app/export", "/admin", "/metrics", "/healthz"):
            assert (await client.get(path)).status_code == 401


REBOUND = {
    "a site's name": "evil.example",
    "a site's name with our port": "evil.example:8000",
    "our address as a subdomain": "127.0.0.1.evil.example",
    "our name as a subdomain": "localhost.evil.example",
    "our address as a user": "127.0.0.1@evil.example",
    "a name that looks like an address": "127.0.0.1.nip.example",
    "a final dot": "evil.example.",
    "a broken address": "[::1",
}


@attack("names that point here", REBOUND)
async def test_a_service_without_keys_is_not_asked_by_names_of_sites(
    tmp_path: Path, case: str
) -> None:
    write_keys(tmp_path / "keys.yaml", {})
    service = build_service(tmp_path)
    app = build_app(service, ApiKeys())
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        for path in ("/", "/app/conversations", "/app/settings"):
            assert_in_form(await client.get(path, headers={"host": case}), 403)
        for own in ("127.0.0.1:8000", "localhost", "[::1]:80", "chat.localhost", "node7"):
            assert (await client.get("/app/settings", headers={"host": own})).is_success
    service.store.close()


SCOPES = {
    "a tool outside the scope": ("counting", {"moss": {"tools": {"web_search": True}}}, 403),
    "a model outside the scope": ("foreign", {}, 403),
    "an unknown model": ("alice", {"model": "MOSS-PAT-secret"}, 404),
}


@attack("keys beyond their scope", SCOPES)
def test_a_key_gets_no_further_than_its_scope(
    target: Target, case: tuple[str, dict[str, Any], int]
) -> None:
    name, changes, status = case
    with target.client(name) as client:
        assert_in_form(client.post(CHAT, json=body(**changes)), status)


def test_a_key_without_a_tool_never_runs_it(target: Target) -> None:
    with target.client("counting") as client:
        moss = client.post(CHAT, json=body()).json()["choices"][0]["message"]["moss"]
    assert [item["api"] for item in moss["commands"]] == ["Calculate"]
    assert moss["effective_tools"] == ["calculator"]


def test_a_key_has_its_own_limits_and_is_told_when_to_return(target: Target) -> None:
    with target.client("narrow") as client:
        assert client.post(CHAT, json=body()).is_success
        refused = client.post(CHAT, json=body())
    assert_in_form(refused, 429)
    assert int(refused.headers["retry-after"]) >= 1
    with target.client("alice") as client:
        assert client.post(CHAT, json=body()).is_success


def stored(target: Target, name: str = "alice", **cookies: str) -> dict[str, str]:
    with target.client(name) as client:
        client.cookies.update(cookies)
        answer = client.post(CHAT, json=body(f"private words of {name}", moss={"store": {}}))
        moss = answer.json()["choices"][0]["message"]["moss"]
    return {"conversation": moss["conversation_id"], "turn": moss["turn_id"]}


STRANGERS: dict[str, tuple[str, dict[str, str]]] = {
    "another key": ("bob", {}),
    "another key with the cookie": ("bob", {"moss_user": "a" * 64}),
    "the same key, another browser": ("alice", {"moss_user": "b" * 64}),
    "the same key, no browser": ("alice", {}),
}


@attack("other users' conversations", STRANGERS)
def test_conversations_of_others_look_absent(
    target: Target, case: tuple[str, dict[str, str]]
) -> None:
    ids = stored(target, moss_user="a" * 64)
    name, cookies = case
    path = f"/app/conversations/{ids['conversation']}"
    own = {"store": {"conversation_id": ids["conversation"]}}
    replacing = {"store": {**own["store"], "replace_turn": ids["turn"]}}
    with target.client(name) as client:
        client.cookies.update(cookies)
        attempts = [
            client.get(path), client.delete(path), client.post(CHAT, json=body(moss=own)),
            client.post(CHAT, json=body(moss=replacing)),
            client.post(f"/app/turns/{ids['turn']}/rating", json={"rating": -1}),
        ]  # fmt: skip
        for attempt in attempts:
            assert_in_form(attempt, 404)
            assert "private words" not in attempt.text
        listed = client.get("/app/conversations").text
    assert ids["conversation"] not in listed
    with target.client() as client:
        client.cookies.set("moss_user", "a" * 64)
        turns = client.get(path).json()["turns"]
    assert [turn["rating"] for turn in turns] == [0]


def test_a_turn_of_another_conversation_cannot_be_replaced(target: Target) -> None:
    mine = stored(target, moss_user="c" * 64)
    theirs = stored(target, moss_user="d" * 64)
    with target.client() as client:
        client.cookies.set("moss_user", "c" * 64)
        store = {"conversation_id": mine["conversation"], "replace_turn": theirs["turn"]}
        assert_in_form(client.post(CHAT, json=body(moss={"store": store})), 404)


def test_comparing_takes_as_many_steps_for_every_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_keys(tmp_path / "keys.yaml", KEYS)
    keys = ApiKeys.load(HttpConfig(api_key_file=str(tmp_path / "keys.yaml")), {})
    compared: list[str] = []
    real = hmac.compare_digest

    def counted(known: str, sent: str) -> bool:
        compared.append(sent)
        return real(known, sent)

    monkeypatch.setattr("serve.auth.hmac.compare_digest", counted)
    steps = []
    for name in ("alice", "narrow", "nobody"):
        compared.clear()
        found = keys._find(key_digest(key(name)))
        assert (found is None) == (name == "nobody")
        steps.append(len(compared))
    assert steps == [len(KEYS)] * 3
