"""What users agreed to, and what a withdrawal does.

Nothing is collected unless a user agreed, to a numbered version of a text. Each turn carries the
consent under which it was written. Withdrawing counts for the future (GDPR, article 7(3)): what
earlier exports took stays lawful, and no later export may use the text. So a withdrawal lowers the
consent of the turns that are there, and agreeing again later does not raise it.
"""

from __future__ import annotations

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from serve.store.records import CONSENTS, Consent, ConsentRecord
from serve.store.tables import ConsentRow, ConversationRow, TurnRow


def last_consent(session: Session, owner: str) -> ConsentRecord | None:
    """A user's last decision; None if there is none, which means that nothing may be collected."""
    records = consent_records(session, owner)
    return records[-1] if records else None


def consent_records(session: Session, owner: str) -> list[ConsentRecord]:
    """All decisions of a user, oldest first."""
    query = select(ConsentRow).where(ConsentRow.owner == owner).order_by(ConsentRow.id)
    return [
        ConsentRecord(row.consent, row.version, row.recorded_at)  # type: ignore[arg-type]
        for row in session.scalars(query)
    ]


def record_consent(
    session: Session, owner: str, consent: Consent, version: int, *, recorded_at: str
) -> int:
    """Write a decision; number of turns whose consent it lowered."""
    session.add(ConsentRow(owner=owner, consent=consent, version=version, recorded_at=recorded_at))
    above = CONSENTS[CONSENTS.index(consent) + 1 :]
    mine = select(ConversationRow.id).where(ConversationRow.owner == owner)
    lowered = session.execute(
        update(TurnRow)
        .where(TurnRow.conversation_id.in_(mine), TurnRow.consent.in_(above))
        .values(consent=consent, withdrawn_at=recorded_at)
        .returning(TurnRow.id)
    )
    return len(lowered.all())
