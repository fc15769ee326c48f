"""The store's promises, each on SQLite and on a real Postgres server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from moss.chat import Conversation, Turn
from moss.errors import DataError
from moss.meta_instruction import MetaInstruction
from serve.store import (
    CONSENT_VERSION,
    ConversationSummary,
    Deleted,
    NotStoredError,
    Store,
    StoredTurn,
)
from serve.store.portable import ImportedTurn

META = MetaInstruction("tiny", False, frozenset())


def turn_of(prompt: str = "Hello there", reply: str = "Hi.", **changes: Any) -> StoredTurn:
    sections = Conversation(META, (Turn(human=prompt, moss=reply),)).to_json()
    return StoredTurn(
        prompt=prompt, sections=sections, model="MOSS-PAT", model_version="v1", **changes
    )


TURN = turn_of()


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    store = Store(database_url)
    yield store
    store.close()


def add(store: Store, conversation_id: str | None = None, prompt: str = "Hello", **kw: Any) -> Any:
    return store.add_turn("ann", conversation_id, turn_of(prompt), **{"replaces": None, **kw})


def prompts(store: Store, conversation_id: str) -> list[str]:
    return [turn.prompt for turn in store.turns("ann", conversation_id)]


def test_turns_come_back_in_order_with_time_model_version_and_consent(store: Store) -> None:
    conversation_id, first = store.add_turn("ann", None, TURN, replaces=None)
    agreed = replace(TURN, prompt="And?", consent="improve")
    _, second = store.add_turn("ann", conversation_id, agreed, replaces=None)
    turns = store.turns("ann", conversation_id)
    assert [turn.id for turn in turns] == [first, second]
    assert (turns[1].model, turns[1].model_version, turns[1].consent) == (
        "MOSS-PAT", "v1", "improve",
    )  # fmt: skip
    assert turns[0].created_at <= turns[1].created_at
    assert [turn.parent_id for turn in turns] == [None, first]
    assert [turn.id for turn in store.turns("ann", conversation_id, before=second)] == [first]


def test_only_consented_prompts_are_handed_to_training(store: Store) -> None:
    store.add_turn("ann", None, TURN, replaces=None)
    store.add_turn("ann", None, replace(TURN, consent="improve"), replaces=None)
    store.add_turn("bob", None, replace(TURN, consent="improve_with_replies"), replaces=None)
    assert [row.consent for row in store.consented_prompts()] == ["improve", "improve_with_replies"]


def test_replacing_a_turn_hides_it_and_all_later_ones_on_a_branch(store: Store) -> None:
    conversation_id, first = add(store, prompt="one")
    _, second = add(store, conversation_id, "two")
    add(store, conversation_id, "three")
    _, other = add(store, conversation_id, "TWO", replaces=second)
    assert prompts(store, conversation_id) == ["one", "TWO"]
    assert store.turns("ann", conversation_id)[1].siblings == (second, other)
    add(store, conversation_id, "four")
    assert prompts(store, conversation_id) == ["one", "TWO", "four"]

    store.choose_branch("ann", conversation_id, second)
    assert prompts(store, conversation_id) == ["one", "two", "three"]
    add(store, conversation_id, "five")
    assert prompts(store, conversation_id) == ["one", "two", "three", "five"]
    store.choose_branch("ann", conversation_id, first)  # from a fork on, the newest turn is shown
    assert prompts(store, conversation_id) == ["one", "TWO", "four"]
    _, edited = add(store, conversation_id, "ONE", replaces=first)
    assert [turn.id for turn in store.turns("ann", conversation_id)] == [edited]


def test_nobody_reads_changes_or_deletes_what_is_not_theirs(store: Store) -> None:
    conversation_id, turn_id = store.add_turn("ann", None, TURN, replaces=None)
    for attempt in (
        lambda: store.turns("bob", conversation_id),
        lambda: store.add_turn("bob", conversation_id, TURN, replaces=None),
        lambda: store.add_turn("bob", None, replace(TURN, id=turn_id), replaces=None),
        lambda: store.add_turn("bob", None, TURN, replaces=turn_id),
        lambda: store.choose_branch("bob", conversation_id, turn_id),
        lambda: store.rename("bob", conversation_id, "mine"),
        lambda: store.rate("bob", turn_id, 1),
        lambda: store.delete_turn("bob", turn_id),
        lambda: store.delete_conversation("bob", conversation_id),
        lambda: store.document("bob", conversation_id),
        lambda: store.turns("ann", "0" * 32),
    ):
        with pytest.raises(NotStoredError):
            attempt()
    assert store.search("bob", "Hello") == []
    assert store.delete_owner("bob") == Deleted()
    assert prompts(store, conversation_id) == ["Hello there"]
    with pytest.raises(DataError, match="-1, 0 or 1"):
        store.rate("ann", turn_id, 5)


def test_the_same_turn_written_twice_is_there_once(store: Store) -> None:
    turn = replace(TURN, id="1" * 32)
    ids = store.add_turn("ann", None, turn, replaces=None)
    assert store.add_turn("ann", None, turn, replaces=None) == ids
    assert len(store.conversations("ann")) == len(store.turns("ann", ids[0])) == 1


def test_feedback_is_kept_changed_and_taken_back(store: Store) -> None:
    conversation_id, turn_id = add(store)
    store.rate("ann", turn_id, -1, "wrong", "Paris, not Rome")
    shown = store.turns("ann", conversation_id)[0]
    assert (shown.rating, shown.reason, shown.comment) == (-1, "wrong", "Paris, not Rome")
    store.rate("ann", turn_id, 1)
    shown = store.turns("ann", conversation_id)[0]
    assert (shown.rating, shown.reason, shown.comment) == (1, "", "")
    store.rate("ann", turn_id, 0)
    assert store.turns("ann", conversation_id)[0].rating == 0


def test_the_last_used_conversation_comes_first_page_by_page(store: Store) -> None:
    first, _ = add(store, prompt="first")
    second, _ = add(store, prompt="second")
    assert [row.id for row in store.conversations("ann")] == [second, first]
    add(store, first, "again")
    assert [row.id for row in store.conversations("ann")] == [first, second]
    assert [row.id for row in store.conversations("ann", limit=1, offset=1)] == [second]


def test_a_renamed_conversation_keeps_its_name(store: Store) -> None:
    conversation_id, _ = add(store, prompt="about   cats\nand dogs")
    assert store.conversations("ann")[0].title == "about cats and dogs"
    assert store.rename("ann", conversation_id, " 猫 " * 40) == ("猫 " * 30)[:60]
    add(store, conversation_id, "more")
    with pytest.raises(DataError, match="title"):
        store.rename("ann", conversation_id, " \n ")
    assert store.conversations("ann")[0].title.startswith("猫 猫")


def test_search_finds_words_in_titles_questions_and_answers_only(store: Store) -> None:
    one, _ = store.add_turn("ann", None, turn_of("Where?", 'In "Oslo", 100% \\sure'), replaces=None)
    two, _ = store.add_turn("ann", None, turn_of("挪威的首都是哪里？", "奥斯陆。"), replaces=None)
    add(store, two, "and a question about Bergen")

    def found(words: str) -> list[str]:
        return [row.id for row in store.search("ann", words)]

    assert found("oSLO") == [one]
    assert found('"oslo", 100%') == [one]
    assert found("\\sure") == [one]
    assert found("首都") == [two]
    assert found("奥斯陆") == [two]
    assert found("bergen") == [two]
    for words in ("moss", "inner_thoughts", "0%\\%", "_", "nothing"):  # keys and wild cards
        assert found(words) == [], words
    assert store.search("ann", "bergen")[0].match == "and a question about Bergen"
    assert store.search("ann", "where")[0] == store.conversations("ann")[1]
    assert len(store.search("ann", "e", limit=1)) == 1


def test_a_recorded_decision_bounds_the_consent_of_later_turns(store: Store) -> None:
    assert store.last_consent("ann") is None
    store.record_consent("ann", "improve")
    store.add_turn("ann", None, replace(TURN, consent="improve_with_replies"), replaces=None)
    store.add_turn("ann", None, TURN, replaces=None)
    assert [row.consent for row in store.consented_prompts()] == ["improve"]
    last = store.last_consent("ann")
    assert last is not None
    assert (last.consent, last.version) == ("improve", CONSENT_VERSION)


def test_a_turn_carries_the_version_of_the_text_that_its_user_agreed_to(store: Store) -> None:
    store.record_consent("ann", "improve", version=7)
    store.add_turn("ann", None, replace(TURN, consent="improve", consent_version=8), replaces=None)
    assert [row.consent_version for row in store.consented_prompts()] == [7]


def test_a_withdrawal_counts_for_the_turns_that_are_there_and_is_not_undone(store: Store) -> None:
    for owner in ("ann", "bob"):
        store.add_turn(owner, None, replace(TURN, consent="improve_with_replies"), replaces=None)
    assert store.record_consent("ann", "improve") == 1
    assert [row.consent for row in store.consented_prompts()] == ["improve", "improve_with_replies"]
    assert store.record_consent("ann", "none") == 1
    store.record_consent("ann", "improve_with_replies")
    assert [row.consent for row in store.consented_prompts()] == ["improve_with_replies"]
    (row,) = store.turns("ann", store.conversations("ann")[0].id)
    assert (row.consent, row.withdrawn_at is not None) == ("none", True)
    store.add_turn("ann", None, replace(TURN, consent="improve"), replaces=None)
    assert len(store.consented_prompts()) == 2


def test_a_deleted_turn_takes_what_followed_and_leaves_other_branches(store: Store) -> None:
    conversation_id, first = add(store, prompt="one")
    _, second = add(store, conversation_id, "two")
    add(store, conversation_id, "three")
    _, other = add(store, conversation_id, "TWO", replaces=second)
    store.choose_branch("ann", conversation_id, second)
    assert store.delete_turn("ann", second).num_turns == 2
    assert prompts(store, conversation_id) == ["one", "TWO"]
    assert store.turns("ann", conversation_id)[1].siblings == (other,)
    _, edited = add(store, conversation_id, "ONE", replaces=first)
    store.delete_turn("ann", first)
    assert prompts(store, conversation_id) == ["ONE"]
    assert store.conversations("ann")[0].title == "ONE"  # the old one quoted a deleted turn
    store.delete_turn("ann", edited)
    assert store.conversations("ann") == []


def test_pictures_are_free_to_go_once_no_turn_shows_them(store: Store) -> None:
    def drawing(*images: str) -> str:
        turn = replace(TURN, extras=json.dumps({"references": [], "images": list(images)}))
        return store.add_turn("ann", None, turn, replaces=None)[0]

    one, two = drawing("a" * 32, "b" * 32), drawing("b" * 32)
    assert store.delete_conversation("ann", one).images == ("a" * 32,)
    assert store.delete_conversation("ann", two).images == ("b" * 32,)


def test_what_nobody_added_to_for_long_is_purged(store: Store) -> None:
    for number in range(3):
        add(store, prompt=f"number {number}")
    assert store.purge(1).num_turns == 0
    assert store.purge(1e-9).num_turns == 3
    assert store.conversations("ann") == []


def test_deleting_a_user_leaves_nothing_of_theirs(store: Store) -> None:
    for _ in range(3):
        _, turn_id = store.add_turn("ann", None, replace(TURN, consent="improve"), replaces=None)
    store.rate("ann", turn_id, 1)
    store.record_consent("ann", "improve")
    kept, _ = store.add_turn("bob", None, TURN, replaces=None)
    assert store.delete_owner("ann").num_turns == 3
    assert (store.conversations("ann"), store.last_consent("ann")) == ([], None)
    assert store.export_head("ann")[1] == []
    assert len(store.turns("bob", kept)) == 1


def test_an_export_comes_back_as_the_same_tree_without_consent(store: Store) -> None:
    conversation_id, first = store.add_turn(
        "ann", None, replace(turn_of("one", "1"), consent="improve"), replaces=None
    )
    add(store, conversation_id, "two")
    add(store, conversation_id, "ONE", replaces=first)
    store.rate("ann", first, 1, comment="good")
    store.record_consent("ann", "improve")
    head, ids = store.export_head("ann")
    exported: Any = store.document("ann", ids[0])
    assert (head["format"], ids) == ("moss-chat", [conversation_id])
    assert [turn["human"] for turn in exported["turns"]] == ["one", "two", "ONE"]
    assert (exported["turns"][0]["comment"], exported["turns"][0]["consent"]) == ("good", "improve")

    turns = [
        ImportedTurn(turn["human"], turn["moss"], turn["id"], turn["parent_id"])
        for turn in exported["turns"]
    ]
    copy = store.add_imported("bob", exported["title"], turns, META)
    again: Any = store.document("bob", copy)
    names = {turn["id"]: turn["human"] for turn in again["turns"]}
    assert [(turn["human"], names.get(turn["parent_id"])) for turn in again["turns"]] == [
        ("one", None), ("two", "one"), ("ONE", None),
    ]  # fmt: skip
    assert {turn["consent"] for turn in again["turns"]} == {"none"}
    assert len(store.consented_prompts()) == 1


def test_an_import_of_plain_turns_is_a_line_and_a_broken_tree_is_refused(store: Store) -> None:
    lines = [ImportedTurn("a", "1"), ImportedTurn("b", "2")]
    copy = store.add_imported("ann", "", lines, META)
    assert prompts(store, copy) == ["a", "b"]
    for wrong in ([], [ImportedTurn("a", "1", "x", "y")], [ImportedTurn("a", "1", "x", "x")]):
        with pytest.raises(DataError):
            store.add_imported("ann", "", wrong, META)
    assert len(store.conversations("ann")) == 1


@pytest.mark.parametrize(
    "text",
    [
        "nul \0 inside",
        "lone \ud800 surrogate",
        "\u202ebidi\u202c \u200b\u200dzero",
        "e" + "\u0301" * 500,
        "𝔐😀",
    ],
)
def test_odd_characters_are_stored_alike_on_every_database(store: Store, text: str) -> None:
    turn = replace(TURN, prompt=text, sections=turn_of("x", text.replace("\ud800", "")).sections)
    conversation_id, turn_id = store.add_turn("ann", None, turn, replaces=None)
    store.rate("ann", turn_id, 1, text, text)
    store.rename("ann", conversation_id, text)
    shown = store.turns("ann", conversation_id)[0]
    expected = text.replace("\0", "\ufffd").replace("\ud800", "?")
    assert (shown.prompt, shown.comment) == (expected, expected)
    assert isinstance(store.search("ann", text)[0], ConversationSummary)


def test_concurrent_writers_lose_nothing_and_make_one_line_of_turns(store: Store) -> None:
    shared, _ = add(store, prompt="first")
    with ThreadPoolExecutor(8) as pool:
        new = pool.map(lambda n: store.add_turn(f"u{n % 3}", None, TURN, replaces=None), range(30))
        line = pool.map(lambda n: add(store, shared, f"p{n}"), range(30))
        assert len(list(new)) == len(list(line)) == 30
    assert sum(len(store.conversations(f"u{n}")) for n in range(3)) == 30
    assert sorted(prompts(store, shared)) == sorted(["first", *(f"p{n}" for n in range(30))])


def test_no_turn_slips_past_a_withdrawal_that_runs_beside_it(store: Store) -> None:
    agreed = replace(TURN, consent="improve")
    store.record_consent("ann", "improve")
    with ThreadPoolExecutor(8) as pool:
        writes = [
            pool.submit(store.add_turn, "ann", None, agreed, replaces=None) for _ in range(20)
        ]
        withdrawal = pool.submit(store.record_consent, "ann", "none")
        writes += [
            pool.submit(store.add_turn, "ann", None, agreed, replaces=None) for _ in range(20)
        ]
        withdrawal.result()
        for write in writes:
            write.result()
    assert len(store.conversations("ann")) == 40
    assert store.consented_prompts() == []
