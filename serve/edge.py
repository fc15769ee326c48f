"""ASGI middleware at the public edge: body size, headers that steer Ray Serve, page security.

Ray Serve obeys `x-request-disconnect-disabled` (keep running after the client left) and
`x-request-timeout-seconds` (override the server's timeout) from any client; a request that carries
them is refused at once, which takes their effect away. It has no body limit of its own.
"""

from __future__ import annotations

import re
import uuid
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.errors import ApiError, as_api_error

STEERING_HEADERS: Final = (
    "x-request-disconnect-disabled",
    "x-request-timeout-seconds",
    "x-session-id",
    "serve_multiplexed_model_id",
)
_STEERING_PREFIX: Final = "x-serve-"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SECURITY_HEADERS: Final = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
}


class Edge:
    """Wraps the application; refuses before parsing, and answers for what failed inside."""

    def __init__(self, app: ASGIApp, *, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry point."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = headers.get("x-request-id", "")
        if not _REQUEST_ID.fullmatch(request_id):
            request_id = uuid.uuid4().hex
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                answer = MutableHeaders(scope=message)
                answer["x-request-id"] = request_id
                for name, value in _SECURITY_HEADERS.items():
                    answer.setdefault(name, value)
            await send(message)

        try:
            _refuse_steering(headers)
            _refuse_foreign_origin(scope["method"], headers)
            body = await _read_body(receive, headers, self._max_body_bytes)
            await self._app(scope, body, send_with_headers)
        except Exception as error:
            if started:  # no second answer can be sent
                raise
            await as_api_error(error).response()(scope, receive, send_with_headers)


def _refuse_steering(headers: Headers) -> None:
    for name in headers:
        if name in STEERING_HEADERS or name.startswith(_STEERING_PREFIX):
            raise ApiError(400, f"the header {name} is not accepted", code="header_not_accepted")


def _refuse_foreign_origin(method: str, headers: Headers) -> None:
    """A page of another site must not act for a user of this one."""
    origin = headers.get("origin")
    if method in ("GET", "HEAD", "OPTIONS") or origin is None:
        return
    if urlsplit(origin).netloc != headers.get("host"):
        raise ApiError(403, "requests from pages of other origins are refused", code="bad_origin")


async def _read_body(receive: Receive, headers: Headers, max_body_bytes: int) -> Receive:
    """Read the whole body, at most so many bytes, and hand it to the application in one piece."""
    too_large = ApiError(
        413, f"the request body is longer than {max_body_bytes} bytes", code="body_too_large"
    )
    announced = headers.get("content-length", "0")
    if not announced.isdigit() or int(announced) > max_body_bytes:
        raise too_large
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            break
        body += message.get("body", b"")
        if len(body) > max_body_bytes:
            raise too_large
        if not message.get("more_body", False):
            message = {"type": "http.request", "body": bytes(body), "more_body": False}
            break
    pending = [message]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay
