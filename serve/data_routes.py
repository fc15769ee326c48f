"""What a visitor decides about their data: consent, export, import, deletion (`/app/*`)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from moss.meta_instruction import MetaInstruction
from serve.chat_service import ChatService
from serve.errors import ApiError
from serve.gate import key_of
from serve.page_schemas import ConsentRequest, ImportRequest
from serve.responses import Json
from serve.store import CONSENT_VERSION, CONSENTS, Deleted, NotStoredError
from serve.store.portable import ImportedTurn
from serve.users import owner_of


def data_router(
    service: ChatService, remove_images: Callable[[Deleted], Awaitable[None]]
) -> APIRouter:
    """Routes over all that one visitor has."""
    router = APIRouter()
    _add_consent(router, service)

    @router.get("/app/export")
    async def export(request: Request) -> Response:
        """All conversations with every branch, feedback and consent, as one JSON file."""
        owner = _owner(request)
        head, ids = await asyncio.to_thread(service.store.export_head, owner)
        return StreamingResponse(
            _export(service, owner, head, ids), media_type="application/json",
            headers={
                "content-disposition": 'attachment; filename="moss-conversations.json"',
                "cache-control": "no-store",
            },
        )  # fmt: skip

    @router.post("/app/import")
    async def import_(body: ImportRequest, request: Request) -> Json:
        """Add the conversations of an export as new ones; `{"conversation_ids"}`.

        Questions and answers are taken, nothing else: a file is no proof of consent, of what a tool
        said or of a picture. Larger files than a body may be are sent in parts.
        """
        owner, meta = _owner(request), _plain_meta(service)
        ids = []
        for item in body.conversations:
            turns = [ImportedTurn(**turn.model_dump()) for turn in item.turns]
            ids.append(
                await asyncio.to_thread(service.store.add_imported, owner, item.title, turns, meta)
            )
        return {"conversation_ids": ids}

    @router.delete("/app/data")
    async def delete_all(request: Request) -> Json:
        """Delete every conversation, rating and decision of this visitor, for good."""
        deleted = await asyncio.to_thread(service.store.delete_owner, _owner(request))
        await remove_images(deleted)
        return {"num_turns": deleted.num_turns}

    return router


def _add_consent(router: APIRouter, service: ChatService) -> None:
    @router.get("/app/consent")
    async def consent(request: Request) -> Json:
        """The last decision; `none`, `recorded_at: null` where there is none."""
        last = await asyncio.to_thread(service.store.last_consent, _owner(request))
        return {
            "consent": last.consent if last else CONSENTS[0],
            "version": last.version if last else None,
            "recorded_at": last.recorded_at if last else None,
            "current_version": CONSENT_VERSION,
        }

    @router.put("/app/consent")
    async def record(body: ConsentRequest, request: Request) -> Json:
        """Record a decision on the text of `version`; 409 for another version than the present one.

        Less consent than before also counts for the turns that are there (`num_withdrawn`): no
        later export uses them, and agreeing again does not bring them back.
        """
        if body.version != CONSENT_VERSION:
            raise ApiError(
                409, f"the text on consent has version {CONSENT_VERSION}; load the page again",
                code="consent_text_changed", param="version",
            )  # fmt: skip
        num_withdrawn = await asyncio.to_thread(
            service.store.record_consent, _owner(request), body.consent, body.version
        )
        return {"consent": body.consent, "num_withdrawn": num_withdrawn}


def _owner(request: Request) -> str:
    return owner_of(request, key_of(request).label)


def _plain_meta(service: ChatService) -> MetaInstruction:
    return MetaInstruction(service.config.meta_version, False, frozenset())


async def _export(
    service: ChatService, owner: str, head: Json, ids: list[str]
) -> AsyncIterator[bytes]:
    """One JSON object, a conversation at a time, so that a long history takes little memory."""
    yield json.dumps(head, ensure_ascii=False)[:-1].encode() + b', "conversations": ['
    separator = b""
    for conversation_id in ids:
        try:
            item = await asyncio.to_thread(service.store.document, owner, conversation_id)
        except NotStoredError:  # deleted since the export began
            continue
        yield separator + json.dumps(item, ensure_ascii=False).encode()
        separator = b",\n"
    yield b"]}"
