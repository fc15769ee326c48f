"""The tables, as `serve.migrations` leaves them; a test holds the two to each other.

User text stands in `conversation.title`, in `turn` and in `feedback` only. Times are ISO 8601 in
UTC, as text: they sort as they stand on every database.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import ForeignKey, Integer, String, Text, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

MAX_TITLE_CHARS: Final = 60


class Base(DeclarativeBase):
    """Holds the metadata."""


class ConversationRow(Base):
    """A conversation of one user: a tree of turns, of which one path is shown."""

    __tablename__ = "conversation"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    owner: Mapped[str] = mapped_column(String(64), index=True)
    title: Mapped[str] = mapped_column(String(MAX_TITLE_CHARS))
    created_at: Mapped[str] = mapped_column(String(32), index=True)
    updated_at: Mapped[str] = mapped_column(String(32), index=True, server_default=text("''"))
    """Of its newest turn; retention counts from here."""
    head_id: Mapped[str | None] = mapped_column(String(32))
    """Last turn of the path that is shown."""


class TurnRow(Base):
    """A question and its answer."""

    __tablename__ = "turn"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    conversation_id: Mapped[str] = mapped_column(
        ForeignKey("conversation.id", ondelete="CASCADE"), index=True
    )
    parent_id: Mapped[str | None] = mapped_column(String(32))
    position: Mapped[int] = mapped_column(Integer)
    """Order in which the conversation's turns were written, over all branches."""
    created_at: Mapped[str] = mapped_column(String(32))
    model: Mapped[str] = mapped_column(String(128))
    model_version: Mapped[str] = mapped_column(String(64))
    consent: Mapped[str] = mapped_column(String(32), index=True)
    consent_version: Mapped[int] = mapped_column(Integer)
    withdrawn_at: Mapped[str | None] = mapped_column(String(32))
    prompt: Mapped[str] = mapped_column(Text)
    sections: Mapped[str] = mapped_column(Text)
    extras: Mapped[str] = mapped_column(Text)


class FeedbackRow(Base):
    """What a user thinks of an answer."""

    __tablename__ = "feedback"
    turn_id: Mapped[str] = mapped_column(
        ForeignKey("turn.id", ondelete="CASCADE"), primary_key=True
    )
    rating: Mapped[int] = mapped_column(Integer)
    reason: Mapped[str] = mapped_column(Text)
    comment: Mapped[str] = mapped_column(Text)
    updated_at: Mapped[str] = mapped_column(String(32))


class ImageRow(Base):
    """A picture that a turn shows; the same picture may stand in many turns."""

    __tablename__ = "turn_image"
    turn_id: Mapped[str] = mapped_column(
        ForeignKey("turn.id", ondelete="CASCADE"), primary_key=True
    )
    image_id: Mapped[str] = mapped_column(String(64), primary_key=True, index=True)


class ConsentRow(Base):
    """A user's decisions, one row each; the last one counts."""

    __tablename__ = "consent_record"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    owner: Mapped[str] = mapped_column(String(64), index=True)
    consent: Mapped[str] = mapped_column(String(32))
    version: Mapped[int] = mapped_column(Integer)
    recorded_at: Mapped[str] = mapped_column(String(32))


class TombstoneRow(Base):
    """Says that a turn was deleted, without saying which: exports leave its digest out."""

    __tablename__ = "tombstone"
    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    """sha256 of the turn's id, hex."""
    deleted_at: Mapped[str] = mapped_column(String(32))
