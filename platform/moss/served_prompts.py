"""Reads what was served: the chat service's store, or a file of prompts.

From a store only what may be used leaves the database: text without consent, or whose consent was
withdrawn, is never read, and what was deleted is left out for good. Rows are known by a digest of
their turn's id, so an export can be searched for a deleted turn and still names nobody.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

from sqlalchemy import Connection, create_engine, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError

from moss import storage
from moss.errors import DataError
from moss.recipes import Row, text_of

NO_CONSENT: Final = frozenset({"", "none", "0", "false"})
_SQLITE: Final = (".sqlite", ".sqlite3", ".db")
_POSTGRES: Final = ("postgresql://", "postgresql+psycopg://")
_CONNECT_TIMEOUT_S: Final = 10
_PROMPTS: Final = """
    SELECT id, conversation_id, parent_id, consent,
           CASE WHEN consent = 'none' THEN '' ELSE prompt END AS text
    FROM turn ORDER BY created_at, id
"""
_TOMBSTONES: Final = "SELECT digest FROM tombstone"
_WITHDRAWN: Final = "SELECT id FROM turn WHERE consent = 'none' AND withdrawn_at IS NOT NULL"
_DIGEST_CHARS: Final = 32


def is_store(source: str) -> bool:
    """Whether a source is the store of a chat service, rather than a file of rows."""
    return source.startswith(_POSTGRES) or source.endswith(_SQLITE)


def is_database_url(source: str) -> bool:
    """Whether a source is reached through a server, so that no file can be looked for."""
    return source.startswith(_POSTGRES)


def read_served_prompts(source: str) -> list[Row]:
    """Rows with `text` and `consent`, oldest first where the source has an order of time.

    A missing consent counts as none. A question that was only asked again for another answer has
    `is_repeat`; it is no second wish for the same thing.

    Args:
        source: JSONL, Parquet, the chat store's SQLite file, or its `postgresql://` URL.
    Raises:
        DataError: a row without text, or a source of another kind.
    """
    if is_store(source):
        return _read_store(source)
    if source.endswith(".parquet"):
        found: list[Mapping[str, object]] = list(storage.read_rows(source))
    elif source.endswith(".jsonl"):
        lines = storage.read_text(source).splitlines()
        found = [json.loads(line) for line in lines if line.strip()]
    else:
        kinds = ", ".join(_SQLITE)
        raise DataError(f"{source} is not .parquet, .jsonl, {kinds} or a postgresql:// URL")
    return [
        {
            "id": f"served-{number:08d}",
            "text": text_of(row, "text"),
            "consent": str(row.get("consent") or "").casefold() not in NO_CONSENT,
            "source": "user",
        }
        for number, row in enumerate(found, 1)
    ]


def forgotten_rows(source: str) -> set[str]:
    """Ids that rows of deleted turns, and of turns with withdrawn consent, have in any export.

    Raises:
        DataError: the source is no store of the chat service.
    """
    with _connected(source) as connection:
        tombstones = connection.execute(text(_TOMBSTONES)).scalars()
        withdrawn = connection.execute(text(_WITHDRAWN)).scalars()
        return {*map(_row_id, tombstones), *(_row_id(_digest(turn_id)) for turn_id in withdrawn)}


def _read_store(source: str) -> list[Row]:
    with _connected(source) as connection:
        deleted = set(connection.execute(text(_TOMBSTONES)).scalars())
        found = connection.execute(text(_PROMPTS)).mappings().all()
    rows: list[Row] = []
    asked: set[tuple[object, ...]] = set()
    for turn in found:
        digest = _digest(str(turn["id"]))
        if digest in deleted:  # a backup brought it back
            continue
        has_consent = turn["consent"] not in NO_CONSENT
        question = (turn["conversation_id"], turn["parent_id"], turn["text"])
        is_repeat = has_consent and question in asked
        if has_consent:
            asked.add(question)
        rows.append(
            {
                "id": _row_id(digest),
                "text": turn["text"],
                "consent": has_consent,
                "source": "user",
                "is_repeat": is_repeat,
            }
        )
    return rows


def _digest(turn_id: str) -> str:
    return hashlib.sha256(turn_id.encode()).hexdigest()


def _row_id(digest: str) -> str:
    return f"served-{digest[:_DIGEST_CHARS]}"


@contextmanager
def _connected(source: str) -> Iterator[Connection]:
    """A connection that cannot write."""
    is_server = is_database_url(source)
    options = {"connect_timeout": _CONNECT_TIMEOUT_S} if is_server else {}
    try:
        engine = create_engine(_url(source), hide_parameters=True, connect_args=options)
        try:
            with engine.connect() as connection:
                if is_server:
                    connection.exec_driver_sql("SET TRANSACTION READ ONLY")
                yield connection
        finally:
            engine.dispose()
    except (DBAPIError, ArgumentError) as error:
        raise DataError(
            f"{source} is not a store of the chat service, or one of an older version (start the "
            f"service on it once, or run jobs.migrate_store): {error}"
        ) from error


def _url(source: str) -> URL:
    if is_database_url(source):
        return make_url(source).set(drivername="postgresql+psycopg")
    local = Path(source.removeprefix("file://")).resolve()
    return URL.create(
        "sqlite", database=f"file:{quote(str(local))}", query={"mode": "ro", "uri": "true"}
    )
