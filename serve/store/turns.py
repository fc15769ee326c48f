"""Conversations as trees of turns: write, read the shown path, choose a branch, rate, search.

Functions over a session of the caller's; `serve.store.Store` gives each call its transaction.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from moss.chat import Conversation
from moss.errors import DataError
from serve.store.consents import last_consent
from serve.store.records import (
    ConversationSummary,
    NotStoredError,
    StoredTurn,
    at_most,
    by_question,
)
from serve.store.tables import MAX_TITLE_CHARS, ConversationRow, FeedbackRow, ImageRow, TurnRow

_MATCH_CHARS: Final = 40
"""Characters shown on either side of what a search found."""


def now() -> str:
    """The time as the tables hold it."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def digest_of(turn_id: str) -> str:
    """What a tombstone and an export know a turn by; it cannot be turned back into the id."""
    return hashlib.sha256(turn_id.encode()).hexdigest()


def storable(text: str) -> str:
    """Text that every database takes: Postgres has no NUL, no database has lone surrogates."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def title_of(prompt: str) -> str:
    """The title of a conversation that begins with this prompt."""
    return storable(" ".join(prompt.split()))[:MAX_TITLE_CHARS]


def owned(
    session: Session, owner: str, conversation_id: str, *, to_write: bool = False
) -> ConversationRow:
    """A conversation of this owner, locked where the database locks rows and `to_write` is set.

    Raises:
        NotStoredError: there is none.
    """
    query = select(ConversationRow).where(
        ConversationRow.id == conversation_id, ConversationRow.owner == owner
    )
    row = session.scalar(query.with_for_update() if to_write else query)
    if row is None:
        raise NotStoredError(f"there is no conversation {conversation_id[:40]!r}")
    return row


def owned_turn(session: Session, owner: str, turn_id: str, *, to_write: bool = False) -> TurnRow:
    """A turn of this owner's.

    Raises:
        NotStoredError: there is none.
    """
    row = session.get(TurnRow, turn_id)
    if row is not None:
        found = session.get(ConversationRow, row.conversation_id, with_for_update=to_write or None)
        if found is not None and found.owner == owner:
            return row
    raise NotStoredError(f"there is no turn {turn_id[:40]!r}")


def add_turn(
    session: Session,
    owner: str,
    conversation_id: str | None,
    turn: StoredTurn,
    *,
    replaces: str | None,
) -> tuple[str, str]:
    """Write a turn at the end of the shown path, or beside the turn that it replaces."""
    if turn.id and session.get(TurnRow, turn.id) is not None:
        return owned_turn(session, owner, turn.id).conversation_id, turn.id
    if conversation_id is None:
        conversation = ConversationRow(
            id=uuid.uuid4().hex, owner=owner, title=title_of(turn.prompt), created_at=now(),
            updated_at=now(), head_id=None,
        )  # fmt: skip
        session.add(conversation)
        session.flush()
    else:
        conversation = owned(session, owner, conversation_id, to_write=True)
    parent_id = conversation.head_id
    if replaces is not None:
        parent_id = _member(links(session, conversation.id), replaces)
    last = session.scalar(
        select(func.max(TurnRow.position)).where(TurnRow.conversation_id == conversation.id)
    )
    consent, consent_version = turn.consent, turn.consent_version
    if (decided := last_consent(session, owner)) is not None:
        consent, consent_version = at_most(consent, decided.consent), decided.version
    row = TurnRow(
        id=turn.id or uuid.uuid4().hex, conversation_id=conversation.id, parent_id=parent_id,
        position=0 if last is None else last + 1, created_at=now(), model=turn.model,
        model_version=turn.model_version, consent=consent, consent_version=consent_version,
        withdrawn_at=None, prompt=storable(turn.prompt), sections=storable(turn.sections),
        extras=storable(turn.extras),
    )  # fmt: skip
    session.add(row)
    session.flush()
    images = sorted(set(json.loads(turn.extras).get("images", [])))
    session.add_all(ImageRow(turn_id=row.id, image_id=image) for image in images)
    conversation.head_id, conversation.updated_at = row.id, row.created_at
    return conversation.id, row.id


def path(
    session: Session, owner: str, conversation_id: str, *, before: str | None
) -> list[StoredTurn]:
    """Turns of the shown path, oldest first; or those that led to the turn `before`."""
    conversation = owned(session, owner, conversation_id)
    parents = links(session, conversation_id)
    leaf = conversation.head_id if before is None else _member(parents, before)
    ids: list[str] = []
    while leaf is not None:
        ids.append(leaf)
        leaf = parents.get(leaf)
    children: dict[str | None, list[str]] = {}
    for turn_id, parent in parents.items():
        children.setdefault(parent, []).append(turn_id)
    found = {turn.id: turn for turn in stored_turns(session, conversation_id, children)}
    shown = [found[turn_id] for turn_id in reversed(ids)]
    return [
        replace(turn, versions=by_question(found[sibling] for sibling in turn.siblings))
        for turn in shown
    ]


def stored_turns(
    session: Session, conversation_id: str, children: dict[str | None, list[str]] | None = None
) -> Iterable[StoredTurn]:
    """Every turn of a conversation, all branches, in the order of writing."""
    query = (
        select(TurnRow, FeedbackRow)
        .outerjoin(FeedbackRow, FeedbackRow.turn_id == TurnRow.id)
        .where(TurnRow.conversation_id == conversation_id)
        .order_by(TurnRow.position)
    )
    for row, feedback in session.execute(query):
        siblings = tuple(children[row.parent_id]) if children else ()
        yield stored(row, feedback, siblings)


def choose_branch(session: Session, owner: str, conversation_id: str, turn_id: str) -> None:
    """Show the path through a turn, and from it on along the newest turns."""
    conversation = owned(session, owner, conversation_id, to_write=True)
    parents = links(session, conversation_id)
    _member(parents, turn_id)
    conversation.head_id = newest_leaf(parents, turn_id)


def newest_leaf(parents: dict[str, str | None], turn_id: str | None) -> str | None:
    """The end of the path that starts at a turn and takes the newest one at each fork.

    Args:
        parents: turn -> its parent, in the order of writing.
        turn_id: None starts before the first turn.
    """
    newest: dict[str | None, str] = {parent: child for child, parent in parents.items()}
    while turn_id in newest:
        turn_id = newest[turn_id]
    return turn_id


def conversations(
    session: Session, owner: str, *, limit: int, offset: int
) -> list[ConversationSummary]:
    """A user's conversations, the last used one first."""
    query = (
        select(ConversationRow)
        .where(ConversationRow.owner == owner)
        .order_by(ConversationRow.updated_at.desc(), ConversationRow.id)
        .limit(limit)
        .offset(offset)
    )
    return [_summary(row) for row in session.scalars(query)]


def search(session: Session, owner: str, words: str, *, limit: int) -> list[ConversationSummary]:
    """A user's conversations whose title, questions or answers hold `words`, last used first."""
    words = storable(words)
    # `sections` is JSON: the database finds candidates by how the words stand there.
    in_json = json.dumps(words, ensure_ascii=False)[1:-1]
    query = (
        select(ConversationRow, TurnRow)
        .join(TurnRow, TurnRow.conversation_id == ConversationRow.id)
        .where(ConversationRow.owner == owner)
        .where(
            or_(
                ConversationRow.title.icontains(words, autoescape=True),
                TurnRow.prompt.icontains(words, autoescape=True),
                TurnRow.sections.icontains(in_json, autoescape=True),
            )
        )
        .order_by(ConversationRow.updated_at.desc(), ConversationRow.id, TurnRow.position)
        .execution_options(yield_per=100)
    )
    found: dict[str, ConversationSummary] = {}
    for conversation, turn in session.execute(query):
        if conversation.id in found:
            continue
        if len(found) == limit:
            break
        said = Conversation.from_json(turn.sections).turns[0].moss
        texts = ("" if _holds(conversation.title, words) else turn.prompt, said)
        match = next((_around(text, words) for text in texts if _holds(text, words)), "")
        if match or _holds(conversation.title, words):
            found[conversation.id] = _summary(conversation, match)
    return list(found.values())


def rate(
    session: Session, owner: str, turn_id: str, rating: int, *, reason: str, comment: str
) -> None:
    """Set what a user thinks of an answer; rating 0 without words takes it back."""
    if rating not in (-1, 0, 1):
        raise DataError(f"rating {rating} is not -1, 0 or 1")
    owned_turn(session, owner, turn_id, to_write=True)
    row = session.get(FeedbackRow, turn_id)
    if rating == 0 and not reason and not comment:
        if row is not None:
            session.delete(row)
        return
    session.merge(
        FeedbackRow(
            turn_id=turn_id, rating=rating, reason=storable(reason), comment=storable(comment),
            updated_at=now(),
        )
    )  # fmt: skip


def links(session: Session, conversation_id: str) -> dict[str, str | None]:
    """Turn -> its parent, in the order of writing."""
    query = select(TurnRow.id, TurnRow.parent_id).where(TurnRow.conversation_id == conversation_id)
    return {row.id: row.parent_id for row in session.execute(query.order_by(TurnRow.position))}


def _member(parents: dict[str, str | None], turn_id: str) -> str | None:
    """Parent of a turn.

    Raises:
        NotStoredError: the conversation has no such turn.
    """
    if turn_id not in parents:
        raise NotStoredError(f"there is no turn {turn_id[:40]!r} in this conversation")
    return parents[turn_id]


def _holds(text: str, words: str) -> bool:
    return words.casefold() in text.casefold()


def _around(text: str, words: str) -> str:
    at = max(text.casefold().find(words.casefold()), 0)
    piece = text[max(at - _MATCH_CHARS, 0) : at + len(words) + _MATCH_CHARS]
    return " ".join(piece.split())


def _summary(row: ConversationRow, match: str = "") -> ConversationSummary:
    return ConversationSummary(row.id, row.title, row.created_at, row.updated_at, match)


def stored(
    row: TurnRow, feedback: FeedbackRow | None = None, siblings: tuple[str, ...] = ()
) -> StoredTurn:
    """A row as the store hands it out."""
    return StoredTurn(
        prompt=row.prompt, sections=row.sections, model=row.model,
        model_version=row.model_version, consent=row.consent,  # type: ignore[arg-type]
        extras=row.extras, id=row.id, conversation_id=row.conversation_id,
        created_at=row.created_at, consent_version=row.consent_version,
        withdrawn_at=row.withdrawn_at, parent_id=row.parent_id, siblings=siblings,
        rating=feedback.rating if feedback else 0, reason=feedback.reason if feedback else "",
        comment=feedback.comment if feedback else "",
    )  # fmt: skip
