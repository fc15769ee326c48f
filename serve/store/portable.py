"""A user's data as JSON, out and in.

What comes in was written by anybody: it is text to read and to go on from. It never carries
consent, tool results or pictures, which the service vouches for elsewhere.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

from sqlalchemy.orm import Session

from moss.chat import Conversation, Turn
from moss.errors import DataError
from moss.meta_instruction import MetaInstruction
from serve.store.records import ConsentRecord, StoredTurn
from serve.store.tables import ConversationRow, TurnRow
from serve.store.turns import newest_leaf, now, owned, storable, stored_turns, title_of

FORMAT: Final = "moss-chat"
FORMAT_VERSION: Final = 1
IMPORTED: Final = "imported"
"""Stands for the model of a turn that came from a file."""

Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class ImportedTurn:
    """A turn of a file."""

    human: str
    moss: str
    id: str = ""
    """Its name in the file, which later turns' `parent_id` refer to."""
    parent_id: str | None = None


def shown_turn(stored: StoredTurn) -> Json:
    """A turn as the page and the export show it."""
    turn = Conversation.from_json(stored.sections).turns[0]
    return {
        "id": stored.id,
        "parent_id": stored.parent_id,
        "siblings": list(stored.siblings),
        "versions": list(map(list, stored.versions)),
        "model": stored.model,
        "human": turn.human,
        "moss": turn.moss,
        "inner_thoughts": turn.inner_thoughts,
        "commands": [{"api": item.api, "argument": item.argument} for item in turn.commands],
        "results": [
            {"api": item.command.api, "argument": item.command.argument, "text": item.text,
             "ok": item.ok}
            for item in turn.results
        ],
        "rating": stored.rating,
        "reason": stored.reason,
        "comment": stored.comment,
        "consent": stored.consent,
        "created_at": stored.created_at,
        **json.loads(stored.extras),
    }  # fmt: skip


def document(session: Session, owner: str, conversation_id: str) -> Json:
    """All of a conversation, every branch, with what the store knows about each turn."""
    row = owned(session, owner, conversation_id)
    turns = []
    for stored in stored_turns(session, conversation_id):
        shown = shown_turn(stored)
        del shown["siblings"], shown["versions"]
        about = {
            "model_version": stored.model_version,
            "consent_version": stored.consent_version, "withdrawn_at": stored.withdrawn_at,
        }  # fmt: skip
        turns.append(shown | about)
    return {
        "id": row.id, "title": row.title, "created_at": row.created_at,
        "updated_at": row.updated_at, "head_id": row.head_id, "turns": turns,
    }  # fmt: skip


def add_imported(
    session: Session, owner: str, title: str, turns: Sequence[ImportedTurn], meta: MetaInstruction
) -> str:
    """Write a conversation of a file as a new one; returns its id.

    A turn without `parent_id` follows the one before it, unless it is the first.

    Args:
        meta: the service's meta-instruction, all tools off.
    Raises:
        DataError: no turns, or a turn whose parent does not stand before it.
    """
    if not turns:
        raise DataError("a conversation to import has no turns")
    row = ConversationRow(
        id=uuid.uuid4().hex, owner=owner, title=title_of(title or turns[0].human),
        created_at=now(), updated_at=now(), head_id=None,
    )  # fmt: skip
    session.add(row)
    session.flush()
    known: dict[str, str] = {}
    parents: dict[str, str | None] = {}
    names_parents = any(turn.parent_id for turn in turns)
    last: str | None = None
    for position, turn in enumerate(turns):
        if turn.parent_id is not None and turn.parent_id not in known:
            raise DataError(
                f"turn {position} of a conversation to import names a parent_id that is the id of "
                "no turn before it"
            )
        parent = known[turn.parent_id] if turn.parent_id is not None else last
        if names_parents and turn.parent_id is None:
            parent = None
        stored = TurnRow(
            id=uuid.uuid4().hex, conversation_id=row.id, parent_id=parent, position=position,
            created_at=now(), model=IMPORTED, model_version="", consent="none", consent_version=0,
            withdrawn_at=None, prompt=storable(turn.human), sections=_sections(turn, meta),
            extras=json.dumps({"references": [], "images": []}),
        )  # fmt: skip
        session.add(stored)
        last = stored.id
        parents[stored.id] = parent
        if turn.id:
            known[turn.id] = stored.id
    row.head_id = newest_leaf(parents, None)
    return row.id


def export_head(consent: Sequence[ConsentRecord]) -> Json:
    """The head of an export, before its conversations."""
    return {
        "format": FORMAT, "version": FORMAT_VERSION, "exported_at": now(),
        "consent": [asdict(record) for record in consent],
    }  # fmt: skip


def _sections(turn: ImportedTurn, meta: MetaInstruction) -> str:
    plain = Turn(human=turn.human, moss=turn.moss)
    return storable(Conversation(meta, (plain,)).to_json())
