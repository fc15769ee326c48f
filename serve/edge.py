"""ASGI middleware at the public edge: body size, headers that steer Ray Serve, page security.

Ray Serve obeys `x-request-disconnect-disabled` (keep running after the client left) and
`x-request-timeout-seconds` (override the server's timeout) from any client; a request that carries
them is refused at once, which takes their effect away. It has no body limit of its own, and waits
for ever for a client that stops sending or stops reading.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Collection
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moss.config.serve import HttpConfig
from serve.errors import ApiError, as_api_error
from serve.gate import refuse_without_key
from serve.proxy_door import SENT_BODY
from serve.request_errors import shown

STEERING_HEADERS: Final = (
    "x-request-disconnect-disabled",
    "x-request-timeout-seconds",
    "x-session-id",
    "serve-multiplexed-model-id",
)
"""Ray Serve takes `_` for `-` in some of them, so each is refused in both spellings."""
_STEERING_PREFIX: Final = "x-serve-"
_MAX_LENGTH_DIGITS: Final = 15
"""Of `content-length`; int() of an endless number takes endless time."""
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

    def __init__(self, app: ASGIApp, *, config: HttpConfig, needs_key: bool) -> None:
        self._app = app
        self._config = config
        self._checks_host = config.is_loopback and not needs_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry point."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        started = False
        is_head = scope["method"] == "HEAD"
        if is_head:  # answered as GET is, without the body
            scope = dict(scope, method="GET")

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if is_head and message["type"] == "http.response.body":
                message = dict(message, body=b"")
            if message["type"] == "http.response.start":
                started = True
                answer = MutableHeaders(scope=message)
                for name, value in _SECURITY_HEADERS.items():
                    answer.setdefault(name, value)
            # A client that stops reading would hold its place among `max_ongoing` for ever.
            async with asyncio.timeout(self._config.write_timeout_s):
                await send(message)

        try:
            _refuse_steering(headers)
            if self._checks_host:
                _refuse_foreign_host(headers, self._config.allowed_hosts)
            _refuse_foreign_origin(scope["method"], headers)
            refuse_without_key(scope)
            body = await _read_body(scope, receive, self._config)
            await self._app(scope, body, send_with_headers)
        except Exception as error:
            if started:  # no second answer can be sent
                raise
            await as_api_error(error).response()(scope, receive, send_with_headers)


def _refuse_steering(headers: Headers) -> None:
    for name in headers:
        spelled = name.replace("_", "-")
        if spelled in STEERING_HEADERS or spelled.startswith(_STEERING_PREFIX):
            raise ApiError(400, f"the header {name} is not accepted", code="header_not_accepted")


def _refuse_foreign_host(headers: Headers, allowed: Collection[str]) -> None:
    """Refuse names that the owner of another site can make point here.

    Addresses, single words, `.localhost` and `.test` are no names of sites (RFC 6761).
    """
    host = headers.get("host", "")
    try:
        name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        is_local = "." not in name or name.endswith((".localhost", ".test")) or _is_address(name)
    except ValueError:  # not a host
        name, is_local = "", False
    if "@" in host or not (is_local or name in allowed):
        raise ApiError(
            403, "this service has no API keys and is not known by that name; list it in "
            "http.allowed_hosts", code="bad_host",
        )  # fmt: skip


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _refuse_foreign_origin(method: str, headers: Headers) -> None:
    """A page of another site must not act for a user of this one."""
    origin = headers.get("origin")
    if method in ("GET", "HEAD", "OPTIONS") or origin is None:
        return
    try:
        is_own = urlsplit(origin).netloc == headers.get("host")
    except ValueError:  # not a URL
        is_own = False
    if not is_own:
        raise ApiError(403, "requests from pages of other origins are refused", code="bad_origin")


def _refuse_other_types(headers: Headers, *, has_body: bool) -> None:
    """Only JSON is read; a form can be sent by a page of another site without asking first."""
    sent = headers.get("content-type", "")
    kind = sent.partition(";")[0].strip().lower()
    if (kind or has_body) and kind != "application/json":
        came = f"{shown(sent)} came" if sent else "none came"
        raise ApiError(
            415, f"send JSON, with `Content-Type: application/json`; {came}",
            code="unsupported_media_type",
        )  # fmt: skip


async def _read_body(scope: Scope, receive: Receive, config: HttpConfig) -> Receive:
    """Read the whole body, bounded in size and time, and hand it on in one piece."""
    headers = Headers(scope=scope)
    _refuse_other_types(headers, has_body=False)
    announced = headers.get("content-length", "0")
    if not (announced.isascii() and announced.isdigit()):
        raise ApiError(400, "content-length is not a number", code="invalid_header")
    if len(announced) > _MAX_LENGTH_DIGITS or int(announced) > config.max_body_bytes:
        raise _too_large(config)
    try:
        async with asyncio.timeout(config.read_timeout_s):
            message = await _collect_body(_after_sent_body(scope, receive), config)
    except TimeoutError as error:
        raise ApiError(
            408, f"the request body did not arrive within {config.read_timeout_s:g} s",
            code="body_too_slow",
        ) from error  # fmt: skip
    _refuse_other_types(headers, has_body=bool(message.get("body")))
    pending = [message]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay


def _after_sent_body(scope: Scope, receive: Receive) -> Receive:
    """What is received, the body first that the proxy has sent along."""
    sent = [scope.pop(SENT_BODY)] if SENT_BODY in scope else []

    async def received() -> Message:
        if sent:
            return {"type": "http.request", "body": sent.pop(), "more_body": False}
        return await receive()

    return received


async def _collect_body(receive: Receive, config: HttpConfig) -> Message:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return message
        body += message.get("body", b"")
        if len(body) > config.max_body_bytes:
            raise _too_large(config)
        if not message.get("more_body", False):
            return {"type": "http.request", "body": bytes(body), "more_body": False}


def _too_large(config: HttpConfig) -> ApiError:
    return ApiError(
        413, f"the request body is longer than {config.max_body_bytes} bytes", code="body_too_large"
    )
