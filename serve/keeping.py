"""A finished turn as the store keeps it, written once whatever the database does meanwhile."""

from __future__ import annotations

import asyncio
import json
import uuid
from dataclasses import dataclass
from typing import Final

from moss.chat import Conversation
from moss.meta_instruction import MetaInstruction
from serve.conversation import TurnOutcome
from serve.schemas import StoreOptions
from serve.store import Store, StoredTurn, StoreUnavailableError

_RETRY_WAITS_S: Final = (0.5, 1.5, 3.0)
"""A database that restarts is back within these; the answer is out, so its reader can wait."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Where a stored turn lies."""

    conversation_id: str
    turn_id: str


def stored_turn(
    meta: MetaInstruction,
    prompt: str,
    outcome: TurnOutcome,
    options: StoreOptions,
    *,
    model: str,
    model_version: str,
) -> StoredTurn:
    """The row of a finished turn; it has its id already, so that writing it twice does no harm."""
    extras = {
        "references": [
            {"number": number, "title": page.title, "text": page.text, "source": page.source}
            for call in outcome.calls
            for number, page in enumerate(call.output.references, start=call.first_reference)
        ],
        "images": [image for call in outcome.calls for image in call.output.images],
    }
    return StoredTurn(
        id=uuid.uuid4().hex, prompt=prompt, sections=Conversation(meta, (outcome.turn,)).to_json(),
        model=model, model_version=model_version, consent=options.consent,
        extras=json.dumps(extras, ensure_ascii=False),
    )  # fmt: skip


async def keep_turn(store: Store, owner: str, turn: StoredTurn, options: StoreOptions) -> Kept:
    """Write a turn; tried again for a while when the database does not answer.

    Raises:
        NotStoredError: its conversation was deleted while the answer was made.
        StoreUnavailableError: the database stayed away.
    """
    for wait_s in (*_RETRY_WAITS_S, None):
        try:
            ids = await asyncio.to_thread(
                store.add_turn, owner, options.conversation_id, turn, replaces=options.replace_turn
            )
        except StoreUnavailableError:
            if wait_s is None:
                raise
            await asyncio.sleep(wait_s)
        else:
            return Kept(*ids)
    raise AssertionError("the last attempt returns or raises")
