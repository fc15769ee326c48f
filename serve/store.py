"""Conversations, prompts with consent, and ratings, in SQL (SQLite by default).

Every turn keeps who asked (a hash), when, under which model version and with which consent; a turn
is used for training only if its own consent says so (`consented_prompts`, which `collect_prompts`
reads). Deleting a conversation deletes its turns and ratings.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, get_args

from sqlalchemy import (
    ForeignKey,
    Integer,
    String,
    Text,
    create_engine,
    delete,
    event,
    select,
)
from sqlalchemy.engine import Engine as Database
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from moss.errors import DataError

Consent = Literal["none", "improve", "improve_with_replies"]
"""What a turn may be used for: nothing, its prompt, or its prompt and reply."""
CONSENTS: Final[tuple[Consent, ...]] = get_args(Consent)
CONSENT_VERSION: Final = 1
"""Version of the consent text on the page; copied into each turn."""
_MAX_TITLE_CHARS: Final = 60


class NotStoredError(DataError):
    """No such conversation or turn, or it belongs to someone else; the two look alike."""


class _Base(DeclarativeBase):
    pass


class _Conversation(_Base):
    __tablename__ = "conversation"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    owner: Mapped[str] = mapped_column(String(64), index=True)
    title: Mapped[str] = mapped_column(String(_MAX_TITLE_CHARS))
    created_at: Mapped[str] = mapped_column(String(32), index=True)


class _Turn(_Base):
    __tablename__ = "turn"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    conversation_id: Mapped[str] = mapped_column(
        ForeignKey("conversation.id", ondelete="CASCADE"), index=True
    )
    position: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[str] = mapped_column(String(32))
    model: Mapped[str] = mapped_column(String(128))
    model_version: Mapped[str] = mapped_column(String(64))
    consent: Mapped[str] = mapped_column(String(32), index=True)
    consent_version: Mapped[int] = mapped_column(Integer)
    prompt: Mapped[str] = mapped_column(Text)
    sections: Mapped[str] = mapped_column(Text)
    extras: Mapped[str] = mapped_column(Text)
    rating: Mapped[int] = mapped_column(Integer, default=0)
    rating_reason: Mapped[str] = mapped_column(Text, default="")


@dataclass(frozen=True, slots=True)
class StoredTurn:
    """One turn as the store keeps it."""

    prompt: str
    sections: str
    """The finished turn as `Conversation.to_json` of a conversation with this turn alone."""
    model: str
    model_version: str
    """Digest of the served model's manifest."""
    consent: Consent = "none"
    extras: str = "{}"
    """JSON of what only the page shows: references and image ids."""
    id: str = ""
    conversation_id: str = ""
    created_at: str = ""
    rating: int = 0
    consent_version: int = CONSENT_VERSION


@dataclass(frozen=True, slots=True)
class ConversationSummary:
    """One line of a user's history."""

    id: str
    title: str
    created_at: str


class Store:
    """The service's database; every method is one transaction, safe from several threads."""

    def __init__(self, url: str) -> None:
        """Open the database and create absent tables.

        Args:
            url: SQLAlchemy URL, such as `sqlite:////data/chat.sqlite`.
        """
        if url.startswith("sqlite:///"):
            Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        self._database: Database = create_engine(url)
        if self._database.dialect.name == "sqlite":
            event.listen(self._database, "connect", _configure_sqlite)
        _Base.metadata.create_all(self._database)

    def add_turn(
        self, owner: str, conversation_id: str | None, turn: StoredTurn, *, replaces: str | None
    ) -> tuple[str, str]:
        """Append a turn; ids of its conversation (made when None is given) and of the turn.

        Args:
            owner: hash of the user.
            replaces: id of the turn that this one replaces, with all later ones (regenerate, edit).
        Raises:
            NotStoredError: no such conversation or turn of this owner.
        """
        with Session(self._database) as session, session.begin():
            if conversation_id is None:
                conversation_id = uuid.uuid4().hex
                title = " ".join(turn.prompt.split())[:_MAX_TITLE_CHARS]
                session.add(
                    _Conversation(id=conversation_id, owner=owner, title=title, created_at=_now())
                )
                session.flush()
            else:
                _owned(session, owner, conversation_id)
            kept = _turns(session, conversation_id, before=replaces)
            if replaces is not None:
                _delete_turns_from(session, conversation_id, position=len(kept))
            row = _Turn(
                id=uuid.uuid4().hex, conversation_id=conversation_id, position=len(kept),
                created_at=_now(), model=turn.model, model_version=turn.model_version,
                consent=turn.consent, consent_version=turn.consent_version, prompt=turn.prompt,
                sections=turn.sections, extras=turn.extras, rating=0, rating_reason="",
            )  # fmt: skip
            session.add(row)
            return conversation_id, row.id

    def turns(
        self, owner: str, conversation_id: str, *, before: str | None = None
    ) -> list[StoredTurn]:
        """Turns of a conversation, oldest first, up to but without the turn `before`.

        Raises:
            NotStoredError: no such conversation or turn of this owner.
        """
        with Session(self._database) as session:
            _owned(session, owner, conversation_id)
            return [_stored(row) for row in _turns(session, conversation_id, before=before)]

    def conversations(self, owner: str, *, limit: int = 100) -> list[ConversationSummary]:
        """A user's conversations, newest first."""
        query = select(_Conversation).where(_Conversation.owner == owner)
        query = query.order_by(_Conversation.created_at.desc()).limit(limit)
        with Session(self._database) as session:
            rows = session.scalars(query)
            return [ConversationSummary(row.id, row.title, row.created_at) for row in rows]

    def rate(self, owner: str, turn_id: str, rating: int, reason: str = "") -> None:
        """Set a turn's rating: -1, 0 or 1.

        Raises:
            DataError: another value.
            NotStoredError: no such turn of this owner.
        """
        if rating not in (-1, 0, 1):
            raise DataError(f"rating {rating} is not -1, 0 or 1")
        with Session(self._database) as session, session.begin():
            row = session.get(_Turn, turn_id)
            if row is None:
                raise NotStoredError(f"there is no turn {turn_id[:40]!r}")
            _owned(session, owner, row.conversation_id)
            row.rating, row.rating_reason = rating, reason

    def delete_conversation(self, owner: str, conversation_id: str) -> None:
        """Delete a conversation with all its turns.

        Raises:
            NotStoredError: no such conversation of this owner.
        """
        with Session(self._database) as session, session.begin():
            _owned(session, owner, conversation_id)
            session.execute(delete(_Turn).where(_Turn.conversation_id == conversation_id))
            session.execute(delete(_Conversation).where(_Conversation.id == conversation_id))

    def consented_prompts(self) -> list[StoredTurn]:
        """Every turn whose consent allows training on its prompt, oldest first."""
        query = select(_Turn).where(_Turn.consent != "none").order_by(_Turn.created_at, _Turn.id)
        with Session(self._database) as session:
            return [_stored(row) for row in session.scalars(query)]

    def close(self) -> None:
        """Close all connections."""
        self._database.dispose()


def _configure_sqlite(connection: object, _record: object) -> None:
    cursor = connection.cursor()  # type: ignore[attr-defined]
    for pragma in ("journal_mode=WAL", "busy_timeout=5000", "foreign_keys=ON", "secure_delete=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _owned(session: Session, owner: str, conversation_id: str) -> None:
    row = session.get(_Conversation, conversation_id)
    if row is None or row.owner != owner:
        raise NotStoredError(f"there is no conversation {conversation_id[:40]!r}")


def _turns(session: Session, conversation_id: str, *, before: str | None) -> Sequence[_Turn]:
    query = select(_Turn).where(_Turn.conversation_id == conversation_id).order_by(_Turn.position)
    rows = list(session.scalars(query))
    if before is None:
        return rows
    ids = [row.id for row in rows]
    if before not in ids:
        raise NotStoredError(f"there is no turn {before[:40]!r} in this conversation")
    return rows[: ids.index(before)]


def _delete_turns_from(session: Session, conversation_id: str, *, position: int) -> None:
    session.execute(
        delete(_Turn).where(_Turn.conversation_id == conversation_id, _Turn.position >= position)
    )


def _stored(row: _Turn) -> StoredTurn:
    return StoredTurn(
        prompt=row.prompt, sections=row.sections, model=row.model,
        model_version=row.model_version, consent=row.consent,  # type: ignore[arg-type]
        extras=row.extras, id=row.id, conversation_id=row.conversation_id,
        created_at=row.created_at, rating=row.rating, consent_version=row.consent_version,
    )  # fmt: skip
