"""Bodies of the page's own routes (`/app/*`), bounded everywhere."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, Field

from serve.store import CONSENT_VERSION, Consent

_ID: Final = r"^[0-9a-f]{32}$"
_MAX_IMPORTED_TURNS: Final = 2_000
MAX_IMPORTED_CHARS: Final = 100_000
"""Of one text of an imported turn."""


class RenameRequest(BaseModel):
    """Body of PATCH /app/conversations/{id}."""

    title: str = Field(min_length=1, max_length=500)
    """Its first 60 characters are kept."""


class BranchRequest(BaseModel):
    """Body of PUT /app/conversations/{id}/branch."""

    turn_id: str = Field(pattern=_ID)


class SearchRequest(BaseModel):
    """Body of POST /app/conversations/search; a body, as addresses end up in logs."""

    query: str = Field(min_length=1, max_length=200)
    limit: int = Field(50, ge=1, le=200)


class ConsentRequest(BaseModel):
    """Body of PUT /app/consent."""

    consent: Consent
    version: int = CONSENT_VERSION
    """Of the text that the user saw."""


class ImportedTurnBody(BaseModel):
    """A turn of an import; whatever else a file says about it is left out."""

    human: str = Field(min_length=1, max_length=MAX_IMPORTED_CHARS)
    moss: str = Field("", max_length=MAX_IMPORTED_CHARS)
    id: str = Field("", max_length=64)
    parent_id: str | None = Field(None, max_length=64)


class ImportedConversation(BaseModel):
    """A conversation of an import."""

    title: str = Field("", max_length=500)
    turns: list[ImportedTurnBody] = Field(
        min_length=1, max_length=_MAX_IMPORTED_TURNS, fail_fast=True
    )


class ImportRequest(BaseModel):
    """Body of POST /app/import: an export, or a part of one."""

    conversations: list[ImportedConversation] = Field(
        min_length=1, max_length=1_000, fail_fast=True
    )
