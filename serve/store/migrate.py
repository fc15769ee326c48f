"""Brings a database to a revision of the schema; safe when several replicas start at once.

One transaction holds the lock, looks at the revision and changes the tables, so a second replica
waits and then finds nothing to do, and a change that fails leaves no half of itself.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config as AlembicConfig
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, func, inspect, select
from sqlalchemy.engine import URL
from sqlalchemy.exc import OperationalError

import serve.migrations
from moss.errors import ConfigError, DataError
from serve.store.database import OWE_REWRITE, TO_WRITE, Database, answering, check_exists
from serve.store.tables import Base

HEAD: Final = "head"
BASE: Final = "base"
LOCK_TIMEOUT_S: Final = 120
"""Longest wait for another process that changes the schema."""
_ADVISORY_LOCK: Final = 0x6D6F7373  # "moss"
_FIRST: Final = "0001"
_FIRST_TABLES: Final[dict[str, frozenset[str]]] = {
    "conversation": frozenset({"id", "owner", "title", "created_at"}),
    "turn": frozenset(
        {
            "id", "conversation_id", "position", "created_at", "model", "model_version", "consent",
            "consent_version", "prompt", "sections", "extras", "rating", "rating_reason",
        }
    ),
}  # fmt: skip
_IN_ONE_PROCESS = threading.Lock()
"""Alembic keeps the migration that runs in module globals."""


def migrate(database: Database, to: str = HEAD) -> tuple[str | None, str | None]:
    """Go up or down to a revision; the revisions before and after, None for an empty database.

    A database that the service made before it had revisions is taken in as the first one.

    Args:
        to: a revision, `head` or `base`.
    Raises:
        ConfigError: there is no such revision, or the database is at one that this version of the
            service does not know.
        DataError: tables of other software bear our names.
        StoreUnavailableError: no connection, or the lock is held for too long.
    """
    settings = AlembicConfig()
    folder = str(Path(serve.migrations.__file__).resolve().parent)
    settings.set_main_option("script_location", folder.replace("%", "%%"))
    script = ScriptDirectory.from_config(settings)
    order = [item.revision for item in script.walk_revisions()][::-1]
    if to not in (HEAD, BASE, *order):
        raise ConfigError(f"there is no revision {to!r}; known are {BASE}, {', '.join(order)}")
    target = {HEAD: order[-1], BASE: None}.get(to, to)
    with _IN_ONE_PROCESS, answering(), _locked(database) as connection:
        before = _current(connection, order)
        if before is None and _FIRST_TABLES.keys() & set(inspect(connection).get_table_names()):
            _adopt(connection, settings)
            before = _FIRST
        settings.attributes["connection"] = connection
        if database.is_sqlite and before not in (None, target):
            connection.exec_driver_sql(OWE_REWRITE)  # changed tables leave copies of their rows
        if _rank(target, order) < _rank(before, order):
            command.downgrade(settings, target or BASE)
        elif target is not None:
            command.upgrade(settings, target)
    return before, target


def check_is_store(url: URL) -> None:
    """Refuse a database that the chat service never used.

    Raises:
        ConfigError: there is no database, or it has no conversations' tables.
        StoreUnavailableError: no connection.
    """
    check_exists(url)
    database = Database(url)
    try:
        with database.reading() as session:
            if not inspect(session.connection()).has_table("conversation"):
                raise ConfigError(
                    f"{url.render_as_string()} holds no tables of the chat service; give the "
                    "database that the service uses"
                )
    finally:
        database.close()


def num_conversations(database: Database) -> int:
    """Conversations in a database of any revision."""
    with database.reading() as session:
        if not inspect(session.connection()).has_table("conversation"):
            return 0
        table = Base.metadata.tables["conversation"]
        return session.scalar(select(func.count()).select_from(table)) or 0


def _rank(revision: str | None, order: list[str]) -> int:
    return -1 if revision is None else order.index(revision)


def _current(connection: Connection, order: list[str]) -> str | None:
    revision = MigrationContext.configure(connection).get_current_revision()
    if revision is not None and revision not in order:
        raise ConfigError(
            f"the chat store is at revision {revision}, and this version of the service knows "
            f"{order[0]} to {order[-1]}: a newer version migrated it. Deploy that version, or go "
            f"back with it first: python -m jobs.migrate_store --url ... --to {order[-1]}"
        )
    return revision


def _adopt(connection: Connection, settings: AlembicConfig) -> None:
    inspector = inspect(connection)
    for table, columns in _FIRST_TABLES.items():
        found = set()
        if inspector.has_table(table):
            found = {column["name"] for column in inspector.get_columns(table)}
        if found != columns:
            raise DataError(
                f"the database has a table {table!r} with the columns {sorted(found)}, which is no "
                f"chat store (expected {sorted(columns)}); give the service a database of its own"
            )
    settings.attributes["connection"] = connection
    command.stamp(settings, _FIRST)


@contextmanager
def _locked(database: Database) -> Iterator[Connection]:
    """A connection in a transaction that no second migration can enter; commits at the end."""
    if database.is_sqlite:
        with database.engine.connect() as connection:
            raw = connection.connection.dbapi_connection
            assert isinstance(raw, sqlite3.Connection)
            raw.execute(f"PRAGMA busy_timeout={1000 * LOCK_TIMEOUT_S}")
            raw.execute("PRAGMA foreign_keys=OFF")  # tables may be rebuilt under their references
            _switch_log_on(raw)
            try:
                with connection.execution_options(**TO_WRITE).begin():
                    yield connection
            finally:
                connection.invalidate()  # its settings are those of a migration
    else:
        with database.engine.connect() as connection, connection.begin():
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'")
            connection.exec_driver_sql(f"SET LOCAL statement_timeout = '{LOCK_TIMEOUT_S * 10}s'")
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})")
            yield connection


def _switch_log_on(raw: sqlite3.Connection) -> None:
    """Write-ahead logging, a property of the file; the switch itself never waits for a lock."""
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            raw.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if time.monotonic() > deadline:
                raise OperationalError("PRAGMA journal_mode", None, error) from error
            time.sleep(0.05)
