"""The service's database: every method is one transaction, safe from several threads."""

from __future__ import annotations

import os
from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.engine import URL

from moss.errors import DataError
from moss.meta_instruction import MetaInstruction
from serve.store import consents, deletion, portable, turns
from serve.store.database import Database, store_url
from serve.store.migrate import migrate
from serve.store.records import (
    CONSENT_VERSION,
    Consent,
    ConsentRecord,
    ConversationSummary,
    Deleted,
    StoredTurn,
)
from serve.store.tables import ConversationRow, TurnRow


class Store:
    """Conversations, turns, feedback and consent of all users.

    Every method may raise `StoreUnavailableError`, and `NotStoredError` for what its `owner` (the
    hash of a user) does not have. None may be called on an event loop: they wait for a database.
    """

    def __init__(self, url: str | URL) -> None:
        """Open the database and bring its tables up to date.

        Args:
            url: a SQLite file, or a URL such as `sqlite:////data/chat.sqlite` or
                `postgresql://moss@db/moss` (`serve.store.database.store_url`).
        Raises:
            ConfigError: a database of another kind, or one that a newer version migrated.
            StoreUnavailableError: no connection.
        """
        self._database = Database(store_url(url, os.environ) if isinstance(url, str) else url)
        migrate(self._database)

    def check(self) -> None:
        """Ask the database for an answer, before work is done that it would have to keep."""
        self._database.check()

    def add_turn(
        self, owner: str, conversation_id: str | None, turn: StoredTurn, *, replaces: str | None
    ) -> tuple[str, str]:
        """Append a turn; ids of its conversation (made when None is given) and of the turn.

        Its consent is what `turn` says, and no more than the owner's last recorded decision. A turn
        whose id is stored already is not stored again.

        Args:
            replaces: id of the turn beside which this one begins a branch (regenerate, edit); the
                path through the new turn is the one that is shown from then on.
        """
        with self._database.writing(owner) as session:
            return turns.add_turn(session, owner, conversation_id, turn, replaces=replaces)

    def turns(
        self, owner: str, conversation_id: str, *, before: str | None = None
    ) -> list[StoredTurn]:
        """Turns of the shown path, oldest first, or those that led to the turn `before`."""
        with self._database.reading() as session:
            return turns.path(session, owner, conversation_id, before=before)

    def choose_branch(self, owner: str, conversation_id: str, turn_id: str) -> None:
        """Show the path through a turn, and go on from its end."""
        with self._database.writing() as session:
            turns.choose_branch(session, owner, conversation_id, turn_id)

    def conversations(
        self, owner: str, *, limit: int = 100, offset: int = 0
    ) -> list[ConversationSummary]:
        """A user's conversations, the last used one first."""
        with self._database.reading() as session:
            return turns.conversations(session, owner, limit=limit, offset=offset)

    def search(self, owner: str, words: str, *, limit: int = 100) -> list[ConversationSummary]:
        """Those whose title, questions or answers hold `words`, in any case of ASCII letters."""
        with self._database.reading() as session:
            return turns.search(session, owner, words, limit=limit)

    def rename(self, owner: str, conversation_id: str, title: str) -> str:
        """Give a conversation another title; the title as it is kept.

        Raises:
            DataError: a title of white space.
        """
        if not turns.title_of(title):
            raise DataError("a title needs a character that can be seen")
        with self._database.writing() as session:
            row = turns.owned(session, owner, conversation_id, to_write=True)
            row.title = turns.title_of(title)
            return row.title

    def rate(
        self, owner: str, turn_id: str, rating: int, reason: str = "", comment: str = ""
    ) -> None:
        """Set what a user thinks of an answer: -1, 0 or 1, why, and in their own words.

        Raises:
            DataError: another rating.
        """
        with self._database.writing() as session:
            turns.rate(session, owner, turn_id, rating, reason=reason, comment=comment)

    def last_consent(self, owner: str) -> ConsentRecord | None:
        """A user's last decision; None means that nothing may be collected."""
        with self._database.reading() as session:
            return consents.last_consent(session, owner)

    def record_consent(self, owner: str, consent: Consent, version: int = CONSENT_VERSION) -> int:
        """Write a decision; number of earlier turns whose consent it lowered."""
        with self._database.writing(owner) as session:
            at = turns.now()
            return consents.record_consent(session, owner, consent, version, recorded_at=at)

    def delete_conversation(self, owner: str, conversation_id: str) -> Deleted:
        """Delete a conversation with all its turns."""
        with self._database.writing() as session:
            deleted = deletion.delete_conversation(session, owner, conversation_id)
        self._database.forget()
        return deleted

    def delete_turn(self, owner: str, turn_id: str) -> Deleted:
        """Delete a turn and all that followed it."""
        with self._database.writing() as session:
            deleted = deletion.delete_turn(session, owner, turn_id)
        self._database.forget()
        return deleted

    def delete_owner(self, owner: str) -> Deleted:
        """Delete all that the store has of a user."""
        with self._database.writing(owner) as session:
            deleted = deletion.delete_owner(session, owner)
        self._database.forget()
        return deleted

    def purge(self, retention_days: float) -> Deleted:
        """Delete the conversations whose last turn is older than so many days."""
        num_turns, images = 0, set[str]()
        while True:
            with self._database.writing() as session:
                batch = deletion.purge(session, retention_days)
            if batch is None:
                break
            num_turns += batch.num_turns
            images |= set(batch.images)
        if num_turns:
            self._database.forget()
        return Deleted(num_turns, tuple(sorted(images)))

    def settle(self) -> None:
        """Rewrite a SQLite file that is too large to be rewritten with each deletion."""
        self._database.settle()

    def compact(self) -> None:
        """Rewrite the database's files without deleted text; see `Database.compact`."""
        self._database.compact()

    def export_head(self, owner: str) -> tuple[portable.Json, list[str]]:
        """The head of a user's export and the ids of the conversations that follow."""
        with self._database.reading() as session:
            query = select(ConversationRow.id).where(ConversationRow.owner == owner)
            ids = list(session.scalars(query.order_by(ConversationRow.created_at)))
            return portable.export_head(consents.consent_records(session, owner)), ids

    def document(self, owner: str, conversation_id: str) -> portable.Json:
        """All of a conversation, every branch, for an export."""
        with self._database.reading() as session:
            return portable.document(session, owner, conversation_id)

    def add_imported(
        self,
        owner: str,
        title: str,
        imported: Sequence[portable.ImportedTurn],
        meta: MetaInstruction,
    ) -> str:
        """Write a conversation of a file as a new one, without consent; its id.

        Raises:
            DataError: its turns do not form a tree.
        """
        with self._database.writing() as session:
            return portable.add_imported(session, owner, title, imported, meta)

    def consented_prompts(self) -> list[StoredTurn]:
        """Every turn whose consent allows training on its prompt, oldest first."""
        query = select(TurnRow).where(TurnRow.consent != "none")
        with self._database.reading() as session:
            rows = session.scalars(query.order_by(TurnRow.created_at, TurnRow.id))
            return [turns.stored(row) for row in rows]

    def close(self) -> None:
        """Close all connections."""
        self._database.close()
