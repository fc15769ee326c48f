"""The chat page and what only it needs: history, ratings, images (`/` and `/app/*`)."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request
from starlette.responses import FileResponse, Response

from moss.chat import Conversation
from moss.tools.text_to_image import image_folder, read_image
from moss.types import QUALITY_LEVELS
from serve.auth import ApiKeys
from serve.chat_service import ChatService
from serve.errors import ApiError
from serve.gate import key_if_known, key_of
from serve.responses import Json
from serve.schemas import RatingRequest
from serve.store import CONSENT_VERSION, StoredTurn
from serve.users import ensure_cookie, owner_of

WEB: Final = Path(__file__).resolve().parent / "web" / "dist"
"""The built page; its source stands beside it, in `web/src`."""
_MEDIA_TYPES: Final = {
    ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".txt": "text/plain"
}  # fmt: skip
_FILES: Final = {
    file.name: _MEDIA_TYPES[file.suffix]
    for file in WEB.glob("*")
    if file.suffix in _MEDIA_TYPES
}


def page_router(service: ChatService, keys: ApiKeys) -> APIRouter:
    """The page, its files, its settings and the pictures it shows."""
    router = APIRouter()

    @router.get("/")
    async def page(request: Request) -> Response:
        response = FileResponse(WEB / "index.html", media_type="text/html")
        response.headers["cache-control"] = "no-cache"
        ensure_cookie(request, response)
        return response

    @router.get("/static/{name}")
    async def static(name: str) -> Response:
        if name not in _FILES:
            raise ApiError(404, "there is no such file", code="not_found")
        return FileResponse(
            WEB / name, media_type=_FILES[name], headers={"cache-control": "no-cache"}
        )

    @router.get("/app/settings")
    async def settings(request: Request) -> Json:
        return {
            "model": service.model.name,
            "tools": service.offered_tools(key_if_known(request)),
            "quality_levels": list(QUALITY_LEVELS) if service.config.turn.quality else [],
            "consent_version": CONSENT_VERSION,
            "needs_key": keys.required,
        }

    @router.get("/app/images/{image_id}")
    async def image(image_id: str) -> Response:
        folder = image_folder(service.config.tools.text_to_image)
        data = await asyncio.to_thread(read_image, folder, image_id)
        if data is None:
            raise ApiError(404, "there is no such image", code="not_found")
        return Response(data, media_type="image/png", headers={"cache-control": "max-age=86400"})

    return router


def history_router(service: ChatService) -> APIRouter:
    """A visitor's own conversations and ratings."""
    router = APIRouter()

    def owner(request: Request) -> str:
        return owner_of(request, key_of(request).label)

    @router.get("/app/conversations")
    async def conversations(request: Request) -> list[Json]:
        rows = await asyncio.to_thread(service.store.conversations, owner(request))
        return [asdict(row) for row in rows]

    @router.get("/app/conversations/{conversation_id}")
    async def conversation(conversation_id: str, request: Request) -> Json:
        turns = await asyncio.to_thread(service.store.turns, owner(request), conversation_id)
        return {"id": conversation_id, "turns": [_shown(turn) for turn in turns]}

    @router.delete("/app/conversations/{conversation_id}")
    async def delete(conversation_id: str, request: Request) -> Json:
        await asyncio.to_thread(service.store.delete_conversation, owner(request), conversation_id)
        return {"deleted": conversation_id}

    @router.post("/app/turns/{turn_id}/rating")
    async def rate(turn_id: str, body: RatingRequest, request: Request) -> Json:
        await asyncio.to_thread(
            service.store.rate, owner(request), turn_id, body.rating, body.reason
        )
        return {"rating": body.rating}

    return router


def _shown(stored: StoredTurn) -> Json:
    turn = Conversation.from_json(stored.sections).turns[0]
    return {
        "id": stored.id,
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
        "consent": stored.consent,
        "created_at": stored.created_at,
        **json.loads(stored.extras),
    }  # fmt: skip
