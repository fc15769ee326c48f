"""What a user deletes is in no table, no file of the database and no log."""

from __future__ import annotations

import logging
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import MetaData, create_engine, select, text

from moss.chat import Conversation, Turn
from moss.meta_instruction import MetaInstruction
from serve.store import Store, StoredTurn
from serve.store.database import Database, store_url
from serve.store.migrate import migrate

META = MetaInstruction("tiny", False, frozenset())
ENGLISH, CHINESE = "unforgettable-secret-4711", "难忘的秘密四七一一"


def turn_of(words: str, length: int = 1) -> StoredTurn:
    sections = Conversation(META, (Turn(human=words * length, moss=f"reply {words}"),)).to_json()
    return StoredTurn(prompt=words * length, sections=sections, model="m", model_version="v")


def leave_traces(store: Store, text: str) -> str:
    """A conversation with the text in every place that holds text."""
    conversation_id, first = store.add_turn("ann", None, turn_of(text), replaces=None)
    store.add_turn("ann", conversation_id, turn_of(text, 500), replaces=None)
    _, branch = store.add_turn("ann", conversation_id, turn_of(text, 20), replaces=first)
    store.rate("ann", branch, -1, text, text)
    store.rename("ann", conversation_id, f"{text} renamed")
    store.rename("ann", conversation_id, f"{text} again")
    return conversation_id


def holds(content: bytes) -> list[str]:
    return [text for text in (ENGLISH, CHINESE) if text.encode() in content]


def sqlite_bytes(folder: Path) -> bytes:
    """The database with its write-ahead log and its index, as they lie there."""
    return b"".join(file.read_bytes() for file in sorted(folder.iterdir()))


def all_cells(url: str) -> bytes:
    engine = create_engine(url)
    metadata = MetaData()
    with engine.connect() as connection:
        metadata.reflect(connection)
        rows = [
            row for table in metadata.sorted_tables for row in connection.execute(select(table))
        ]
    engine.dispose()
    assert {"conversation", "turn", "feedback", "tombstone"} <= metadata.tables.keys()
    return repr(rows).encode()


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    store = Store(database_url)
    yield store
    store.close()


def test_no_table_and_no_log_holds_deleted_text(
    store: Store, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    ids = [leave_traces(store, text) for text in (ENGLISH, CHINESE)]
    kept, _ = store.add_turn("ann", None, turn_of("kept text"), replaces=None)
    assert holds(all_cells(database_url)) == [ENGLISH, CHINESE]
    for conversation_id in ids:
        store.delete_conversation("ann", conversation_id)
    cells = all_cells(database_url)
    assert holds(cells) == []
    assert not any(conversation_id.encode() in cells for conversation_id in ids)
    assert holds(caplog.text.encode()) == []
    assert store.turns("ann", kept)[0].prompt == "kept text"


def test_sqlite_files_lose_the_text_at_once_while_the_service_runs(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/data/chat.sqlite")
    ids = [leave_traces(store, text) for text in (ENGLISH, CHINESE)]
    assert holds(sqlite_bytes(tmp_path / "data")) == [ENGLISH, CHINESE]
    for conversation_id in ids:
        store.delete_conversation("ann", conversation_id)
    assert {"chat.sqlite", "chat.sqlite-wal"} <= {f.name for f in (tmp_path / "data").iterdir()}
    assert holds(sqlite_bytes(tmp_path / "data")) == []
    store.close()


def test_sqlite_files_hold_no_deleted_text_after_any_mix_of_writes_and_deletions(
    tmp_path: Path,
) -> None:
    draw = random.Random(0)
    store = Store(f"sqlite:///{tmp_path}/data/chat.sqlite")
    alive: dict[str, str] = {}
    dead: list[str] = []
    for number in range(120):
        if alive and draw.random() < 0.45:
            conversation_id = draw.choice(list(alive))
            dead.append(alive.pop(conversation_id))
            store.delete_conversation("ann", conversation_id)
            content = sqlite_bytes(tmp_path / "data")
            assert [text for text in dead if text.encode() in content] == [], number
            continue
        text, found = f"marker-{number}-end", None
        for _ in range(draw.choice([1, 1, 2, 4])):
            length = draw.choice([1, 3, 20, 200, 900])
            found, turn_id = store.add_turn("ann", found, turn_of(text, length), replaces=None)
        if draw.random() < 0.3:
            store.rate("ann", turn_id, 1, text, text * draw.choice([1, 50]))
        if draw.random() < 0.3:
            store.rename("ann", str(found), text)
        alive[str(found)] = text
    assert len(dead) > 20
    store.close()


def test_a_large_sqlite_file_is_rewritten_by_the_daily_upkeep_and_only_if_it_is_owed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(f"sqlite:///{tmp_path}/data/chat.sqlite")
    store.settle()
    conversation_id = leave_traces(store, ENGLISH)
    monkeypatch.setattr("serve.store.database.REWRITE_AT_ONCE_BYTES", 0)
    store.delete_conversation("ann", conversation_id)
    before = (tmp_path / "data" / "chat.sqlite").stat().st_size
    store.settle()
    after = (tmp_path / "data" / "chat.sqlite").stat().st_size
    assert after < before  # free pages are gone, so it was rewritten
    assert holds(sqlite_bytes(tmp_path / "data")) == []
    monkeypatch.setattr(store._database, "compact", None)
    store.settle()  # nothing is owed any more
    store.close()


def test_what_a_migration_leaves_of_old_text_is_rewritten_too(tmp_path: Path) -> None:
    database = Database(store_url(f"{tmp_path}/data/chat.sqlite", {}))
    migrate(database)
    store = Store(f"{tmp_path}/data/chat.sqlite")
    leave_traces(store, ENGLISH)
    migrate(database, "0001")
    with database.writing() as session:
        session.execute(text("DELETE FROM turn"))
        session.execute(text("DELETE FROM conversation"))
    migrate(database)
    store.settle()
    assert holds(sqlite_bytes(tmp_path / "data")) == []
    store.close()
    database.close()


def test_a_reader_in_the_way_delays_the_emptying_of_the_log_to_the_next_deletion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.store.database.BUSY_TIMEOUT_S", 0.1)
    store = Store(f"sqlite:///{tmp_path}/data/chat.sqlite")
    first, second = (leave_traces(store, text) for text in (ENGLISH, CHINESE))
    with closing(sqlite3.connect(tmp_path / "data" / "chat.sqlite")) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM turn").fetchall()
        store.delete_conversation("ann", first)
    store.delete_conversation("ann", second)
    assert holds(sqlite_bytes(tmp_path / "data")) == []
    store.close()


@pytest.mark.postgres
def test_postgres_files_lose_the_text_when_the_store_is_compacted(postgres: Any) -> None:
    name = "deletion"
    postgres.sql(f"CREATE DATABASE {name}")
    store = Store(postgres.url(name))
    ids = [leave_traces(store, text) for text in (ENGLISH, CHINESE)]
    postgres.sql("CHECKPOINT")
    assert holds(postgres_bytes(postgres.data)) == [ENGLISH, CHINESE]
    for conversation_id in ids:
        store.delete_conversation("ann", conversation_id)
    store.compact()
    postgres.sql("CHECKPOINT")  # the old files of rewritten tables go now
    assert holds(postgres_bytes(postgres.data)) == []
    assert holds(postgres.log.read_bytes()) == []
    store.close()
    postgres.sql(f"DROP DATABASE {name} WITH (FORCE)")


def postgres_bytes(data: Path) -> bytes:
    """Tables, indexes and TOAST of all databases; texts over 2 kB are compressed there, short ones
    are not. The write-ahead log has a life of its own, which its server's settings rule."""
    return b"".join(file.read_bytes() for file in (data / "base").rglob("*") if file.is_file())
