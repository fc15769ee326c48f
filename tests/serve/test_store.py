from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from moss.errors import DataError
from serve.store import NotStoredError, Store, StoredTurn

TURN = StoredTurn(prompt="Hello there", sections="{}", model="MOSS-PAT", model_version="v1")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(f"sqlite:///{tmp_path}/new/chat.sqlite")
    yield store
    store.close()


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
    assert [turn.id for turn in store.turns("ann", conversation_id, before=second)] == [first]


def test_only_consented_prompts_are_handed_to_training(store: Store) -> None:
    store.add_turn("ann", None, TURN, replaces=None)
    store.add_turn("ann", None, replace(TURN, consent="improve"), replaces=None)
    store.add_turn("bob", None, replace(TURN, consent="improve_with_replies"), replaces=None)
    assert [row.consent for row in store.consented_prompts()] == ["improve", "improve_with_replies"]


def test_replacing_a_turn_drops_it_and_all_later_ones(store: Store) -> None:
    conversation_id, _ = store.add_turn("ann", None, TURN, replaces=None)
    _, second = store.add_turn("ann", conversation_id, TURN, replaces=None)
    store.add_turn("ann", conversation_id, TURN, replaces=None)
    store.add_turn("ann", conversation_id, replace(TURN, prompt="new"), replaces=second)
    assert [turn.prompt for turn in store.turns("ann", conversation_id)] == ["Hello there", "new"]


def test_nobody_reads_rates_or_deletes_what_is_not_theirs(store: Store) -> None:
    conversation_id, turn_id = store.add_turn("ann", None, TURN, replaces=None)
    for attempt in (
        lambda: store.turns("bob", conversation_id),
        lambda: store.add_turn("bob", conversation_id, TURN, replaces=None),
        lambda: store.rate("bob", turn_id, 1),
        lambda: store.delete_conversation("bob", conversation_id),
        lambda: store.turns("ann", "0" * 32),
    ):
        with pytest.raises(NotStoredError):
            attempt()
    with pytest.raises(DataError, match="-1, 0 or 1"):
        store.rate("ann", turn_id, 5)


def test_deleted_text_is_gone_from_the_file(store: Store, tmp_path: Path) -> None:
    conversation_id, _ = store.add_turn(
        "ann", None, replace(TURN, prompt="unforgettable-secret"), replaces=None
    )
    store.delete_conversation("ann", conversation_id)
    assert store.conversations("ann") == []
    store.close()  # the last connection folds the write-ahead log into the file
    content = b"".join(file.read_bytes() for file in (tmp_path / "new").iterdir())
    assert b"unforgettable-secret" not in content


def test_concurrent_writers_lose_nothing(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: store.add_turn(f"u{n % 3}", None, TURN, replaces=None), range(60)))
    assert sum(len(store.conversations(f"u{n}")) for n in range(3)) == 60
