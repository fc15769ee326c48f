"""The chat page with its files, settings and pictures (`/`, `/static/*`, `/app/*`)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request
from starlette.responses import FileResponse, Response

from moss.tools.text_to_image import image_folder, read_image
from serve.auth import ApiKeys
from serve.chat_service import ChatService
from serve.errors import ApiError
from serve.gate import key_if_known
from serve.responses import Json
from serve.store import CONSENT_VERSION
from serve.users import ensure_cookie

WEB: Final = Path(__file__).resolve().parent / "web" / "dist"
"""The built page; its source stands beside it, in `web/src`."""
_MEDIA_TYPES: Final = {
    ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".txt": "text/plain"
}  # fmt: skip
_FILES: Final = {
    file.name: _MEDIA_TYPES[file.suffix] for file in WEB.glob("*") if file.suffix in _MEDIA_TYPES
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
            "model": service.models.default,
            "tools": service.offered_tools(key_if_known(request)),
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
