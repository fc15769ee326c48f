"""Schema changes: filled databases up and down, adoption, refusal, and many starts at once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, make_url, text

from moss.errors import ConfigError, DataError
from serve.store import Store
from serve.store.database import Database
from serve.store.migrate import migrate, num_conversations
from serve.store.tables import Base
from tests.serve.test_store import turn_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(make_url(database_url))
    yield database
    database.close()


def execute(database: Database, statement: str, **values: object) -> list[tuple[object, ...]]:
    with database.writing() as session:
        result = session.connection().execute(text(statement), values)
        return [tuple(row) for row in result] if result.returns_rows else []


def fill_first_tables(database: Database) -> None:
    """What the service wrote before it had revisions: two conversations, one rated turn."""
    for conversation, count in (("a" * 32, 3), ("b" * 32, 1)):
        execute(
            database,
            "INSERT INTO conversation (id, owner, title, created_at) VALUES (:id, 'ann', 't', :at)",
            id=conversation, at="2024-01-01T00:00:00.000+00:00",
        )  # fmt: skip
        for number in range(count):
            stored = turn_of(f"q{number}", f"r{number}")
            execute(
                database,
                "INSERT INTO turn (id, conversation_id, position, created_at, model, model_version,"
                " consent, consent_version, prompt, sections, extras, rating, rating_reason) VALUES"
                " (:id, :conversation, :position, :at, 'm', 'v', 'improve', 1, :prompt, :sections,"
                " :extras, :rating, :reason)",
                id=f"{conversation[0]}{number:031d}", conversation=conversation, position=number,
                at=f"2024-01-0{number + 2}T00:00:00.000+00:00", prompt=stored.prompt,
                sections=stored.sections, rating=-1 if number == 1 else 0,
                extras=json.dumps({"references": [], "images": ["c" * 32] * (number == 0)}),
                reason="wrong" if number == 1 else "",
            )  # fmt: skip


def first_rows(database: Database) -> list[tuple[object, ...]]:
    return execute(
        database,
        "SELECT id, conversation_id, position, created_at, prompt, sections, extras, consent, "
        "rating, rating_reason FROM turn ORDER BY id",
    )


def test_the_migrated_tables_are_those_of_the_code(database: Database) -> None:
    assert migrate(database) == (None, "0002")
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []


def test_a_filled_database_goes_up_down_and_up_again_without_loss(
    database: Database, database_url: str
) -> None:
    migrate(database, "0001")
    fill_first_tables(database)
    before = first_rows(database)
    assert migrate(database) == ("0001", "0002")
    store = Store(database_url)
    turns = store.turns("ann", "a" * 32)
    assert [turn.prompt for turn in turns] == ["q0", "q1", "q2"]
    assert [turn.parent_id for turn in turns] == [None, turns[0].id, turns[1].id]
    assert [(turn.rating, turn.reason) for turn in turns] == [(0, ""), (-1, "wrong"), (0, "")]
    assert store.conversations("ann")[0].updated_at == "2024-01-04T00:00:00.000+00:00"
    assert store.delete_conversation("ann", "b" * 32).images == ()  # "a" shows the picture too
    store.record_consent("ann", "improve")
    store.close()

    assert migrate(database, "0001") == ("0002", "0001")
    assert first_rows(database) == [row for row in before if row[1] == "a" * 32]
    assert execute(database, "SELECT count(*) FROM tombstone") == [(1,)]
    assert execute(database, "SELECT count(*) FROM consent_record") == [(1,)]
    assert migrate(database) == ("0001", "0002")
    again = Store(database_url)
    assert [turn.rating for turn in again.turns("ann", "a" * 32)] == [0, -1, 0]
    assert again.last_consent("ann") is not None
    again.close()

    assert migrate(database, "base") == ("0002", None)
    assert num_conversations(database) == 0
    assert migrate(database) == (None, "0002")


def test_branches_survive_a_way_down_as_a_line(database: Database, database_url: str) -> None:
    store = Store(database_url)
    conversation_id, first = store.add_turn("ann", None, turn_of("one"), replaces=None)
    store.add_turn("ann", conversation_id, turn_of("two"), replaces=None)
    store.add_turn("ann", conversation_id, turn_of("ONE"), replaces=first)
    store.close()
    migrate(database, "0001")
    assert [row[4] for row in execute_in_order(database)] == ["one", "two", "ONE"]
    migrate(database)
    store = Store(database_url)
    line = store.turns("ann", conversation_id)
    assert [turn.prompt for turn in line] == ["one", "two", "ONE"]
    store.close()


def execute_in_order(database: Database) -> list[tuple[object, ...]]:
    return sorted(first_rows(database), key=lambda row: int(str(row[2])))


def test_a_database_without_revisions_is_taken_in(database: Database, database_url: str) -> None:
    migrate(database, "0001")
    fill_first_tables(database)
    execute(database, "DROP TABLE alembic_version")
    store = Store(database_url)
    assert len(store.conversations("ann")) == 2
    store.close()
    assert migrate(database) == ("0002", "0002")


def test_tables_of_other_software_are_left_alone(database: Database) -> None:
    execute(database, "CREATE TABLE turn (id INTEGER, speed INTEGER)")
    with pytest.raises(DataError, match="no chat store"):
        migrate(database)
    with database.engine.connect() as connection:
        assert inspect(connection).get_table_names() == ["turn"]


def test_a_database_of_a_newer_version_is_refused(database: Database, database_url: str) -> None:
    migrate(database)
    execute(database, "UPDATE alembic_version SET version_num = '0099'")
    with pytest.raises(ConfigError, match=r"revision 0099.*0001 to 0002.*--to 0002"):
        Store(database_url)
    with pytest.raises(ConfigError, match="no revision '0077'; known are base, 0001, 0002"):
        migrate(database, "0077")


def test_a_change_that_fails_leaves_the_old_tables(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate(database, "0001")
    fill_first_tables(database)
    before = first_rows(database)
    execute(database, "UPDATE turn SET extras = '{\"images\": broken'")
    with pytest.raises(ValueError, match="Expecting value"):
        migrate(database)
    assert execute(database, "SELECT version_num FROM alembic_version") == [("0001",)]
    assert [row[:6] for row in first_rows(database)] == [row[:6] for row in before]


def test_replicas_that_start_at_once_migrate_once(database: Database, database_url: str) -> None:
    migrate(database, "0001")
    fill_first_tables(database)
    start = f"""
from serve.store import Store
store = Store({database_url!r})
print(len(store.conversations("ann")), len(store.turns("ann", "a" * 32)))
store.close()
"""
    replicas = [
        subprocess.Popen(
            [sys.executable, "-c", start], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, cwd=ROOT, env={"PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}"},
        )
        for _ in range(3)
    ]  # fmt: skip
    for replica in replicas:
        out, err = replica.communicate(timeout=120)
        assert out.split() == ["2", "3"], err
