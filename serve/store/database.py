"""The connection to SQLite or Postgres: settings, timeouts, transactions, and what fails how.

Text that a user deletes must leave the files too. SQLite overwrites what it deletes with zeros
(`secure_delete`), but not the copies that it left behind when it moved rows between pages, nor the
old pages in its write-ahead log. So a deletion rewrites the file, where that is quick, and empties
the log. Postgres keeps deleted rows in its files until `compact` rewrites the tables.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, create_engine, event, make_url, text
from sqlalchemy.engine import URL, Engine
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from moss.errors import ConfigError
from moss.live_metrics import STORE_ERRORS
from serve import meters
from serve.store.records import StoreUnavailableError
from serve.store.tables import Base

PASSWORD_ENV: Final = "PGPASSWORD"
BUSY_TIMEOUT_S: Final = 5
"""Longest wait for a lock, on either database."""
REWRITE_AT_ONCE_BYTES: Final = 32 << 20
"""A SQLite file up to this size is rewritten with each deletion, in a fraction of a second."""
OWE_REWRITE: Final = "PRAGMA user_version = 1"
"""Written into a SQLite file that may hold text in no row, until it is rewritten."""
_STATEMENT_TIMEOUT_S: Final = 15
_CONNECT_TIMEOUT_S: Final = 3
_POOL_TIMEOUT_S: Final = 5
_POOL_SIZE: Final = 8
_RECYCLE_S: Final = 1800
BEGIN: Final = "moss_begin"
"""Execution option: the statement that begins a transaction on SQLite; empty for none."""
TO_WRITE: Final = {BEGIN: "BEGIN IMMEDIATE"}
"""Writers take the lock first: a reader that turns writer would fail instead of waiting."""
_SQLITE_HEADER: Final = b"SQLite format 3\0"
_SQLITE_SIZE: Final = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
_LOCK_OWNER: Final = "SELECT pg_advisory_xact_lock(hashtextextended(:owner, 0))"
_LOG = logging.getLogger(__name__)


def store_url(database: str, environment: Mapping[str, str]) -> URL:
    """A SQLite file, or a URL, as the URL to connect to.

    A password does not belong into a config: it is taken from `PGPASSWORD`, else libpq looks for
    it where it always does (`~/.pgpass`, a service file).

    Raises:
        ConfigError: a URL of another kind, or a malformed one.
    """
    if "://" not in database:
        return URL.create("sqlite", database=database)
    try:
        url = make_url(database)
    except (ArgumentError, ValueError) as error:
        raise ConfigError(f"the chat store's database URL is malformed: {error}") from error
    match url.get_backend_name():
        case "sqlite" if url.database not in (None, "", ":memory:"):
            return url
        case "postgresql":
            password = url.password or environment.get(PASSWORD_ENV)
            return url.set(drivername="postgresql+psycopg", password=password)
    raise ConfigError(
        f"the chat store cannot use {url.drivername!r}; give a SQLite file (chat.sqlite, "
        "sqlite:////data/chat.sqlite) or postgresql://user@host/database"
    )


def check_exists(url: URL) -> None:
    """Refuse a SQLite path where there is no database; the service makes its own, jobs do not.

    Raises:
        ConfigError: there is no file, or one that is no database.
    """
    if url.get_backend_name() != "sqlite":
        return  # a Postgres database is never made by connecting to it
    assert url.database is not None, "store_url refuses a database in memory"
    path = Path(url.database).absolute()
    if not path.is_file():
        raise ConfigError(
            f"there is no chat store at {path}; give the file that `database` of the service names "
            "(default: chat-store/chat.sqlite in its workspace)"
        )
    with path.open("rb") as file:
        start = file.read(len(_SQLITE_HEADER))
    if start not in (b"", _SQLITE_HEADER):
        raise ConfigError(f"{path} is no SQLite database; give the chat store's file")


class Database:
    """Engine and transactions; every failure of the connection is one kind of error."""

    def __init__(self, url: URL) -> None:
        self.is_sqlite = url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            assert url.database is not None, "store_url refuses a database in memory"
            Path(url.database).absolute().parent.mkdir(parents=True, exist_ok=True)
        self.engine = _sqlite_engine(url) if self.is_sqlite else _postgres_engine(url)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that sees one state of the database.

        Raises:
            StoreUnavailableError: the database does not answer in time.
        """
        options = {} if self.is_sqlite else {"isolation_level": "REPEATABLE READ"}
        with (
            answering(),
            self.engine.connect().execution_options(**options) as connection,
            Session(connection) as session,
        ):
            yield session

    @contextmanager
    def writing(self, owner: str | None = None) -> Iterator[Session]:
        """A session whose changes are committed together, or not at all; errors as `reading`.

        Args:
            owner: hold off other writers of this user who name them too; None for no one.
        """
        with (
            answering(),
            self.engine.connect().execution_options(**TO_WRITE) as connection,
            Session(connection) as session,
            session.begin(),
        ):
            if owner is not None and not self.is_sqlite:  # SQLite has one writer at a time
                session.execute(text(_LOCK_OWNER), {"owner": owner})
            yield session

    def check(self) -> None:
        """Ask the database for an answer.

        Raises:
            StoreUnavailableError: there is none in time.
        """
        with self.reading() as session:
            session.execute(text("SELECT 1"))

    def empty_log(self) -> bool:
        """Fold SQLite's write-ahead log into its file and cut it to nothing; true if that was done.

        Readers in the middle of a query hold it up; after `BUSY_TIMEOUT_S` it is left for the next
        deletion, `compact` or the closing of the store.
        """
        if not self.is_sqlite:
            return True
        with answering(), self._autocommit() as connection:
            busy = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").scalar_one()
        if busy:
            _LOG.warning("the chat store's log is in use and was not emptied; the next one will")
        return not busy

    def forget(self) -> None:
        """Take deleted rows out of SQLite's files: now, or with `settle` where they are large."""
        if not self.is_sqlite:
            return
        with answering(), self._autocommit() as connection:
            connection.exec_driver_sql(OWE_REWRITE)
            num_bytes = connection.exec_driver_sql(_SQLITE_SIZE).scalar_one()
        if num_bytes <= REWRITE_AT_ONCE_BYTES:
            try:
                self.compact()
            except StoreUnavailableError:
                _LOG.warning("the chat store is in use and was not rewritten; it will be later")
        else:
            self.empty_log()

    def settle(self) -> None:
        """Rewrite a SQLite file that owes it to an earlier deletion."""
        if self.is_sqlite:
            with answering(), self._autocommit() as connection:
                is_owed = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
            if is_owed:
                self.compact()

    def compact(self) -> None:
        """Rewrite the files without anything that was deleted; on Postgres tables are locked.

        Raises:
            StoreUnavailableError: other connections hold locks for too long.
        """
        with answering(), self._autocommit() as connection:
            if self.is_sqlite:
                connection.exec_driver_sql("VACUUM")
                connection.exec_driver_sql("PRAGMA user_version = 0")
            else:
                connection.exec_driver_sql("SET statement_timeout = 0")
                for table in Base.metadata.sorted_tables:
                    connection.exec_driver_sql(f"VACUUM (FULL, ANALYZE) {table.name}")
                connection.invalidate()  # the pool's other connections have a timeout
        self.empty_log()

    def close(self) -> None:
        """Close all connections; SQLite then folds its log into the file."""
        self.engine.dispose()

    def _autocommit(self) -> Connection:
        connection = self.engine.connect()
        if self.is_sqlite:
            return connection.execution_options(**{BEGIN: ""})
        return connection.execution_options(isolation_level="AUTOCOMMIT")


@contextmanager
def answering() -> Iterator[None]:
    """Turns every failure of the connection into a `StoreUnavailableError`."""
    try:
        yield
    except (OperationalError, InterfaceError, PoolTimeoutError) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        _LOG.warning("the chat store does not answer: %s", type(cause).__name__)
        meters.count(STORE_ERRORS)
        raise StoreUnavailableError(
            "the history of conversations cannot be reached at the moment; try again"
        ) from error


def _sqlite_engine(url: URL) -> Engine:
    engine = create_engine(
        url, hide_parameters=True, pool_timeout=_POOL_TIMEOUT_S,
        connect_args={"timeout": BUSY_TIMEOUT_S},
    )  # fmt: skip
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _configure_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    """Per connection; write-ahead logging stays on in the file (`serve.store.migrate`)."""
    connection.isolation_level = None  # the driver would begin late and commit before DDL
    for pragma in ("foreign_keys=ON", "secure_delete=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    statement = connection.get_execution_options().get(BEGIN, "BEGIN")
    if statement:
        connection.exec_driver_sql(statement)


def _postgres_engine(url: URL) -> Engine:
    settings = (
        f"-c statement_timeout={_STATEMENT_TIMEOUT_S}s -c lock_timeout={BUSY_TIMEOUT_S}s "
        "-c idle_in_transaction_session_timeout=60s"
    )
    return create_engine(
        url, hide_parameters=True, pool_size=_POOL_SIZE, max_overflow=0,
        pool_timeout=_POOL_TIMEOUT_S, pool_recycle=_RECYCLE_S, pool_pre_ping=True,
        connect_args={
            "connect_timeout": _CONNECT_TIMEOUT_S, "options": settings,
            # A server that vanished without a word is noticed in seconds, not after two hours.
            "tcp_user_timeout": 1000 * BUSY_TIMEOUT_S, "keepalives_idle": 30,
        },
    )  # fmt: skip
