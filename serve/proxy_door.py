"""What Ray Serve's proxy would do by itself, before a request reaches the application.

The proxy repeats any `x-request-id` in its answer, shows its own list of applications without
asking for a key, and lets each replica fetch the body with a call of its own, which takes
milliseconds before the first token. It calls `middlewares` once, as it starts, and puts them around
itself.
"""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.request_record import REQUEST_ID_HEADER, request_id

SENT_BODY: Final = "moss.sent_body"
"""In a request's scope: its whole body, where that came along. Clients cannot set it."""

IMPORT_PATH: Final = "serve.proxy_door.middlewares"
"""As `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH` names it."""
_ROUTES: Final = "/-/routes"
_MOST_SENT_BYTES: Final = 64 * 1024
_WAIT_S: Final = 0.005
"""For a body that its client writes apart from the head."""


class ProxyDoor:
    """Gives each request a well-formed id and its body, if that is small and there, and the
    application the proxy's list to answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry point."""
        if scope["type"] == "http":
            headers = MutableHeaders(scope=scope)
            headers[REQUEST_ID_HEADER] = request_id(headers.get(REQUEST_ID_HEADER, ""))
            if scope["path"] == _ROUTES:  # the proxy keeps only this spelling to itself
                scope = dict(scope, path=f"{_ROUTES}/", raw_path=f"{_ROUTES}/".encode())
            receive = await _with_body(scope, receive)
        await self._app(scope, receive, send)


async def _with_body(scope: Scope, receive: Receive) -> Receive:
    """Put a small body that is there into the scope; returns how to receive what is left."""
    headers = Headers(scope=scope)
    announced = headers.get("content-length", "0")
    is_small = announced.isascii() and announced.isdigit() and len(announced) <= 6
    if (
        not is_small
        or int(announced) > _MOST_SENT_BYTES
        or "transfer-encoding" in headers
        or "expect" in headers  # its body comes once the application asks for it
    ):
        return receive
    try:
        async with asyncio.timeout(_WAIT_S):
            message = await receive()
    except TimeoutError:
        return receive
    if message["type"] == "http.request" and not message.get("more_body", False):
        scope[SENT_BODY] = message.get("body", b"")
        return receive
    unread = [message]

    async def replay() -> Message:
        return unread.pop() if unread else await receive()

    return replay


def middlewares() -> list[Middleware]:
    """For Ray Serve."""
    return [Middleware(ProxyDoor)]
