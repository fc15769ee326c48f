"""Who asks: each request's API key, found once, and its limits told with every answer.

Every path needs a key unless it is listed here as public, so that a new route cannot be forgotten;
a request without one is refused before its body is read.
"""

from __future__ import annotations

from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moss.config.api_keys import ApiKeyConfig
from serve.auth import ApiKeys
from serve.errors import ApiError
from serve.key_limits import KeyLimits
from serve.request_record import current_record

PUBLIC_PATHS: Final = frozenset({"/", "/health", "/ready", "/app/settings"})
PUBLIC_FOLDERS: Final = ("/static/", "/app/images/")
"""Below them anyone may read: the page's files, and pictures, which an `<img>` fetches keyless."""


def is_public(path: str) -> bool:
    """Whether a path is answered without a key."""
    return path in PUBLIC_PATHS or path.startswith(PUBLIC_FOLDERS)


def refuse_without_key(scope: Scope) -> None:
    """Refuse a private path without a key, as soon as its head is read.

    Raises:
        ApiError: 401, see `ApiKeys.check`.
    """
    found = scope["state"]["api_key"]
    if isinstance(found, ApiError) and not is_public(scope["path"]):
        raise found


class KeyGate:
    """ASGI middleware that looks up the key; `refuse_without_key` and the routes refuse."""

    def __init__(self, app: ASGIApp, *, keys: ApiKeys, limits: KeyLimits) -> None:
        self._app = app
        self._keys = keys
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry point."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        found: ApiKeyConfig | ApiError
        try:
            found = self._keys.check(Headers(scope=scope).get("authorization"))
            self._limits.update(found)
            current_record().key = found.label
        except ApiError as error:
            found = error
        scope.setdefault("state", {})["api_key"] = found

        async def send_with_limits(message: Message) -> None:
            if message["type"] == "http.response.start" and isinstance(found, ApiKeyConfig):
                MutableHeaders(scope=message).update(self._limits.headers(found))
            await send(message)

        await self._app(scope, receive, send_with_limits)


def key_of(request: Request) -> ApiKeyConfig:
    """The key of a request.

    Raises:
        ApiError: 401, see `ApiKeys.check`.
    """
    found = request.state.api_key
    if isinstance(found, ApiError):
        raise found
    assert isinstance(found, ApiKeyConfig), "KeyGate stands around the application"
    return found


def key_if_known(request: Request) -> ApiKeyConfig | None:
    """The key of a request to a public route, where it makes a difference."""
    found = request.state.api_key
    return found if isinstance(found, ApiKeyConfig) else None
