"""What Ray Serve's proxy would do by itself, before a request reaches the application.

The proxy repeats any `x-request-id` in its answer, and shows its own list of applications, without
asking for a key. It calls `middlewares` once, as it starts, and puts them around itself.
"""

from __future__ import annotations

from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from serve.request_record import REQUEST_ID_HEADER, request_id

IMPORT_PATH: Final = "serve.proxy_door.middlewares"
"""As `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH` names it."""
_ROUTES: Final = "/-/routes"


class ProxyDoor:
    """Gives each request a well-formed id, and the application the proxy's list to answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry point."""
        if scope["type"] == "http":
            headers = MutableHeaders(scope=scope)
            headers[REQUEST_ID_HEADER] = request_id(headers.get(REQUEST_ID_HEADER, ""))
            if scope["path"] == _ROUTES:  # the proxy keeps only this spelling to itself
                scope = dict(scope, path=f"{_ROUTES}/", raw_path=f"{_ROUTES}/".encode())
        await self._app(scope, receive, send)


def middlewares() -> list[Middleware]:
    """For Ray Serve."""
    return [Middleware(ProxyDoor)]
