"""The page's routes over a visitor's own data, through the whole application."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve.store import CONSENT_VERSION
from tests.serve.test_app import Make, body, client_of, make

__all__ = ["make"]  # the fixture
NOBODY = "0" * 32


def visitor(make: Make, letter: str = "a") -> httpx.AsyncClient:
    client, _, _ = make()
    client.cookies.set("moss_user", letter * 64)
    return client


async def ask(client: httpx.AsyncClient, text: str, **store: Any) -> dict[str, Any]:
    answer = await client.post("/v1/chat/completions", json=body(text, moss={"store": store}))
    assert answer.is_success, answer.text
    ids: dict[str, Any] = answer.json()["choices"][0]["message"]["moss"]
    return ids


async def humans(client: httpx.AsyncClient, conversation_id: str) -> list[str]:
    shown = (await client.get(f"/app/conversations/{conversation_id}")).json()
    return [turn["human"] for turn in shown["turns"]]


async def test_a_conversation_is_renamed_found_and_listed_by_last_use(make: Make) -> None:
    client = visitor(make)
    one, two = await ask(client, "about cats"), await ask(client, "关于狗的问题")
    path = f"/app/conversations/{one['conversation_id']}"
    assert (await client.patch(path, json={"title": "Felines"})).json()["title"] == "Felines"
    listed = (await client.get("/app/conversations")).json()
    assert [row["title"] for row in listed] == ["关于狗的问题", "Felines"]
    found = (await client.post("/app/conversations/search", json={"query": "狗"})).json()
    assert [row["id"] for row in found] == [two["conversation_id"]]
    assert (await client.get("/app/conversations?limit=1&offset=1")).json()[0] == listed[1]


async def test_an_edited_question_is_a_branch_to_go_back_to(make: Make) -> None:
    client = visitor(make)
    first = await ask(client, "one")
    conversation = first["conversation_id"]
    second = await ask(client, "two", conversation_id=conversation)
    edited = await ask(client, "TWO", conversation_id=conversation, replace_turn=second["turn_id"])
    assert await humans(client, conversation) == ["one", "TWO"]
    path = f"/app/conversations/{conversation}/branch"
    shown = (await client.put(path, json={"turn_id": second["turn_id"]})).json()
    assert [turn["human"] for turn in shown["turns"]] == ["one", "two"]
    assert shown["turns"][1]["siblings"] == [second["turn_id"], edited["turn_id"]]
    place = {"conversation_id": conversation, "replace_turn": second["turn_id"]}
    again = (await ask(client, "two", **place))["turn_id"]
    shown = (await client.get(f"/app/conversations/{conversation}")).json()
    assert shown["turns"][1]["versions"] == [[second["turn_id"], again], [edited["turn_id"]]]
    assert (await client.delete(f"/app/turns/{again}")).is_success
    deleted = await client.delete(f"/app/turns/{second['turn_id']}")
    assert deleted.json()["num_turns"] == 1
    assert await humans(client, conversation) == ["one", "TWO"]


async def test_replacing_in_a_conversation_that_is_not_named_is_refused_before_it_costs(
    make: Make,
) -> None:
    client, _, engine = make()
    answer = await client.post(
        "/v1/chat/completions", json=body(moss={"store": {"replace_turn": NOBODY}})
    )
    assert (answer.status_code, engine.prompts) == (400, [])
    assert answer.json()["error"]["param"] == "moss.store.replace_turn"


async def test_consent_is_recorded_by_version_and_withdrawn_for_what_is_there(make: Make) -> None:
    client, service, _ = make()
    client.cookies.set("moss_user", "a" * 64)
    assert (await client.get("/app/consent")).json() == {
        "consent": "none", "version": None, "recorded_at": None, "current_version": CONSENT_VERSION,
    }  # fmt: skip
    stale = await client.put(
        "/app/consent", json={"consent": "improve", "version": CONSENT_VERSION - 1}
    )
    assert (stale.status_code, stale.json()["error"]["code"]) == (409, "consent_text_changed")
    await client.put("/app/consent", json={"consent": "improve", "version": CONSENT_VERSION})
    await ask(client, "for training", consent="improve")
    assert len(service.store.consented_prompts()) == 1
    answer = (
        await client.put("/app/consent", json={"consent": "none", "version": CONSENT_VERSION})
    ).json()
    assert answer == {"consent": "none", "num_withdrawn": 1}
    await ask(client, "a page with an old switch", consent="improve")
    assert service.store.consented_prompts() == []


async def test_an_export_is_whole_and_another_visitor_may_import_it(make: Make) -> None:
    client, service, _ = make()
    client.cookies.set("moss_user", "a" * 64)
    ids = await ask(client, "什么是 12+7?", consent="improve")
    await ask(client, "and?", conversation_id=ids["conversation_id"])
    await client.post(
        f"/app/turns/{ids['turn_id']}/rating",
        json={"rating": -1, "reason": "wrong", "comment": "no"},
    )
    exported = await client.get("/app/export")
    assert "attachment" in exported.headers["content-disposition"]
    data = exported.json()
    turns = data["conversations"][0]["turns"]
    assert [turn["human"] for turn in turns] == ["什么是 12+7?", "and?"]
    assert (turns[0]["reason"], turns[0]["comment"], turns[0]["consent"]) == (
        "wrong", "no", "improve",
    )  # fmt: skip
    assert turns[0]["results"][0]["text"] == "19"
    other = client_of(client._transport.app)  # type: ignore[attr-defined]
    other.cookies.set("moss_user", "b" * 64)
    (copy,) = (await other.post("/app/import", json=data)).json()["conversation_ids"]
    shown = (await other.get(f"/app/conversations/{copy}")).json()["turns"]
    assert [turn["moss"] for turn in shown] == [turn["moss"] for turn in turns]
    assert [turn["results"] for turn in shown] == [[], []]
    assert len(service.store.consented_prompts()) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"conversations": []},
        {"conversations": [{"turns": []}]},
        {"conversations": [{"turns": [{"human": ""}]}]},
        {"conversations": [{"turns": [{"human": "x", "parent_id": "nobody"}]}]},
        {"conversations": [{"turns": [{"human": "x" * 100_001}]}]},
        {"conversations": [{"turns": [{"human": "x"}] * 2_001}]},
    ],
)
async def test_a_malformed_import_is_refused_whole(make: Make, wrong: dict[str, Any]) -> None:
    client = visitor(make)
    answer = await client.post("/app/import", json=wrong)
    assert answer.status_code == 400
    assert (await client.get("/app/conversations")).json() == []


async def test_deleting_all_data_leaves_nothing_and_the_picture_files_go(
    make: Make, tmp_path: Path
) -> None:
    client, service, _ = make()
    client.cookies.set("moss_user", "a" * 64)
    ids = await ask(client, "one")
    service.config = _drawing_in(service.config, tmp_path)
    picture = tmp_path / f"{'d' * 32}.png"
    picture.write_bytes(b"png")
    _show_picture(service.store, ids["turn_id"], "d" * 32)
    await client.put("/app/consent", json={"consent": "improve", "version": CONSENT_VERSION})
    assert (await client.delete("/app/data")).json() == {"num_turns": 1}
    assert not picture.exists()
    assert (await client.get("/app/conversations")).json() == []
    assert (await client.get("/app/consent")).json()["recorded_at"] is None
    assert (await client.get("/app/export")).json()["conversations"] == []


def _drawing_in(config: Any, folder: Path) -> Any:
    drawing = config.tools.text_to_image.model_copy(update={"image_folder": str(folder)})
    tools = config.tools.model_copy(update={"text_to_image": drawing})
    return config.model_copy(update={"tools": tools})


def _show_picture(store: Any, turn_id: str, image_id: str) -> None:
    from serve.store.tables import ImageRow

    with store._database.writing() as session:
        session.add(ImageRow(turn_id=turn_id, image_id=image_id))


async def test_strangers_get_404_on_every_route(make: Make) -> None:
    client = visitor(make)
    ids = await ask(client, "mine")
    stranger = client_of(client._transport.app)  # type: ignore[attr-defined]
    stranger.cookies.set("moss_user", "b" * 64)
    conversation, turn = f"/app/conversations/{ids['conversation_id']}", ids["turn_id"]
    for method, path, sent in (
        ("GET", conversation, None), ("DELETE", conversation, None),
        ("PATCH", conversation, {"title": "x"}),
        ("PUT", f"{conversation}/branch", {"turn_id": turn}),
        ("DELETE", f"/app/turns/{turn}", None),
        ("POST", f"/app/turns/{turn}/rating", {"rating": 1}),
    ):  # fmt: skip
        assert (await stranger.request(method, path, json=sent)).status_code == 404, path
    assert (await stranger.post("/app/conversations/search", json={"query": "mine"})).json() == []
    assert await humans(client, ids["conversation_id"]) == ["mine"]


async def test_every_data_route_wants_a_key_where_keys_are_needed(make: Make) -> None:
    client, _, _ = make(keys="right")
    for method, path, sent in (
        ("PATCH", f"/app/conversations/{NOBODY}", {"title": "x"}),
        ("PUT", f"/app/conversations/{NOBODY}/branch", {"turn_id": NOBODY}),
        ("POST", "/app/conversations/search", {"query": "x"}),
        ("DELETE", f"/app/turns/{NOBODY}", None), ("GET", "/app/export", None),
        ("POST", "/app/import", {"conversations": [{"turns": [{"human": "x"}]}]}),
        ("DELETE", "/app/data", None), ("GET", "/app/consent", None),
        ("PUT", "/app/consent", {"consent": "none"}),
    ):  # fmt: skip
        assert (await client.request(method, path, json=sent)).status_code == 401, path


async def test_deleted_text_is_in_no_log(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    client = visitor(make)
    marker = "unforgettable-secret-0815"
    ids = await ask(client, marker)
    await client.post("/app/conversations/search", json={"query": marker})
    rating = {"rating": 1, "comment": marker}
    await client.post(f"/app/turns/{ids['turn_id']}/rating", json=rating)
    await client.patch(f"/app/conversations/{ids['conversation_id']}", json={"title": marker})
    await client.delete(f"/app/conversations/{ids['conversation_id']}")
    assert marker not in caplog.text


async def test_what_is_past_its_time_goes_while_the_service_runs(make: Make) -> None:
    from serve.retention import daily_upkeep

    client, service, _ = make()
    client.cookies.set("moss_user", "a" * 64)
    await ask(client, "old")
    async with daily_upkeep(service):
        pass
    assert len((await client.get("/app/conversations")).json()) == 1  # no retention is set
    service.config = service.config.model_copy(update={"retention_days": 1e-9})
    async with daily_upkeep(service):
        for _ in range(100):
            if not (await client.get("/app/conversations")).json():
                return
    raise AssertionError("the conversation is still there")
