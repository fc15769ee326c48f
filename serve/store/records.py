"""What goes into the store and comes out of it, and what it raises."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, get_args

from moss.errors import DataError, MossError

Consent = Literal["none", "improve", "improve_with_replies"]
"""What a turn may be used for: nothing, its prompt, or its prompt and reply."""
CONSENTS: Final[tuple[Consent, ...]] = get_args(Consent)
"""From the least to the most."""
CONSENT_VERSION: Final = 2
"""Version of the consent text on the page; copied into each turn."""


class NotStoredError(DataError):
    """No such conversation or turn, or it belongs to someone else; the two look alike."""


class StoreUnavailableError(MossError, ConnectionError):
    """The database does not answer, or not in time; the same call may succeed a little later."""


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
    """What its text may be used for: as agreed when it was written, less what was withdrawn."""
    extras: str = "{}"
    """JSON of what only the page shows: references and image ids."""
    id: str = ""
    """Given by the writer, it makes a repeated write harmless; empty, the store makes one."""
    conversation_id: str = ""
    created_at: str = ""
    consent_version: int = CONSENT_VERSION
    withdrawn_at: str | None = None
    """When its consent was lowered, if it was."""
    parent_id: str | None = None
    """The turn it answers to; None for the first of a conversation."""
    siblings: tuple[str, ...] = ()
    """Turns with the same parent, itself among them, oldest first; filled in by `turns`."""
    versions: tuple[tuple[str, ...], ...] = ()
    """The siblings by question: the answers to each wording, oldest first; filled in by `turns`."""
    rating: int = 0
    reason: str = ""
    comment: str = ""


@dataclass(frozen=True, slots=True)
class ConversationSummary:
    """One line of a user's history."""

    id: str
    title: str
    created_at: str
    updated_at: str = ""
    match: str = ""
    """Text around what a search found; empty outside a search and where the title matched."""


@dataclass(frozen=True, slots=True)
class ConsentRecord:
    """One decision of a user on what may be collected."""

    consent: Consent
    version: int
    """Of the text that the user saw."""
    recorded_at: str


@dataclass(frozen=True, slots=True)
class Deleted:
    """What a deletion took away."""

    num_turns: int = 0
    images: tuple[str, ...] = ()
    """Ids of pictures that no turn shows any more; their files are the caller's to remove."""


def by_question(turns: Iterable[StoredTurn]) -> tuple[tuple[str, ...], ...]:
    """Ids of turns, those with the same prompt together."""
    groups: dict[str, list[str]] = {}
    for turn in turns:
        groups.setdefault(turn.prompt, []).append(turn.id)
    return tuple(map(tuple, groups.values()))


def at_most(consent: Consent, limit: Consent) -> Consent:
    """The lesser of two consents."""
    return min(consent, limit, key=CONSENTS.index)
