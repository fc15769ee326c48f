"""Deleting for good: turns, conversations, everything of a user, and what is past its time.

What a user deletes leaves a tombstone per turn, the digest of its id, so that exports made later,
and exports that are made over, leave it out. What goes because it is old leaves none: its scrubbed
copy in an export was consented to and has a life of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from serve.store.records import Deleted
from serve.store.tables import (
    ConsentRow,
    ConversationRow,
    FeedbackRow,
    ImageRow,
    TombstoneRow,
    TurnRow,
)
from serve.store.turns import digest_of, links, newest_leaf, now, owned, owned_turn, title_of

PURGE_BATCH: Final = 200
"""Conversations that are deleted at once; other writers wait for one batch of a purge only."""


def delete_conversation(session: Session, owner: str, conversation_id: str) -> Deleted:
    """Delete a conversation with all its turns."""
    owned(session, owner, conversation_id, to_write=True)
    return _delete_conversations(session, [conversation_id], leave_tombstones=True)


def delete_turn(session: Session, owner: str, turn_id: str) -> Deleted:
    """Delete a turn and all that followed it; with its last turn a conversation goes too."""
    turn = owned_turn(session, owner, turn_id, to_write=True)
    conversation = owned(session, owner, turn.conversation_id, to_write=True)
    parents = links(session, conversation.id)
    doomed = {turn_id}
    for child, parent in parents.items():  # in the order of writing: parents come first
        if parent in doomed:
            doomed.add(child)
    if len(doomed) == len(parents):
        return _delete_conversations(session, [conversation.id], leave_tombstones=True)
    kept = {child: parent for child, parent in parents.items() if child not in doomed}
    if conversation.head_id in doomed:
        # Beside a deleted branch the next newest one is shown.
        conversation.head_id = newest_leaf(kept, turn.parent_id)
    if conversation.title in {title_of(prompt) for prompt in _prompts(session, doomed)}:
        first = next(child for child, parent in kept.items() if parent is None)
        conversation.title = title_of(_prompts(session, [first])[0])
    return _delete_turns(session, sorted(doomed), leave_tombstones=True)


def delete_owner(session: Session, owner: str) -> Deleted:
    """Delete all that the store has of a user, the record of consent too."""
    ids = session.scalars(select(ConversationRow.id).where(ConversationRow.owner == owner)).all()
    session.execute(delete(ConsentRow).where(ConsentRow.owner == owner))
    num_turns, images = 0, set[str]()
    for start in range(0, len(ids), PURGE_BATCH):
        batch = ids[start : start + PURGE_BATCH]
        deleted = _delete_conversations(session, batch, leave_tombstones=True)
        num_turns += deleted.num_turns
        images |= set(deleted.images)
    return Deleted(num_turns, tuple(sorted(images)))


def purge(session: Session, retention_days: float) -> Deleted | None:
    """Delete one batch of conversations that nobody added to for so long; None if there are none.

    Args:
        retention_days: counted from the last turn.
    """
    oldest = datetime.now(UTC) - timedelta(days=retention_days)
    query = select(ConversationRow.id).where(
        ConversationRow.updated_at < oldest.isoformat(timespec="microseconds")
    )
    ids = session.scalars(query.limit(PURGE_BATCH)).all()
    return _delete_conversations(session, ids, leave_tombstones=False) if ids else None


def _delete_conversations(
    session: Session, ids: Sequence[str], *, leave_tombstones: bool
) -> Deleted:
    turns = session.scalars(select(TurnRow.id).where(TurnRow.conversation_id.in_(ids))).all()
    deleted = _delete_turns(session, turns, leave_tombstones=leave_tombstones)
    session.execute(delete(ConversationRow).where(ConversationRow.id.in_(ids)))
    return deleted


def _delete_turns(session: Session, ids: Sequence[str], *, leave_tombstones: bool) -> Deleted:
    shown = select(ImageRow.image_id).where(ImageRow.turn_id.in_(ids)).distinct()
    images = set(session.scalars(shown))
    for table in (ImageRow, FeedbackRow):
        session.execute(delete(table).where(table.turn_id.in_(ids)))
    session.execute(delete(TurnRow).where(TurnRow.id.in_(ids)))
    still_shown = select(ImageRow.image_id).where(ImageRow.image_id.in_(images)).distinct()
    images -= set(session.scalars(still_shown))
    if leave_tombstones:
        deleted_at = now()
        for turn_id in ids:  # a turn that a backup brought back may have one already
            session.merge(TombstoneRow(digest=digest_of(turn_id), deleted_at=deleted_at))
    return Deleted(len(ids), tuple(sorted(images)))


def _prompts(session: Session, turn_ids: Collection[str]) -> list[str]:
    return list(session.scalars(select(TurnRow.prompt).where(TurnRow.id.in_(turn_ids))))
