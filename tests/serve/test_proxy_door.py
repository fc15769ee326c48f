"""What the door before Ray Serve's proxy does to a request; the proxy itself is in
`test_service_on_ray`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from starlette.types import Message, Receive, Scope, Send

from moss.config.api_keys import ApiKeyConfig
from moss.config.serve import HttpConfig
from serve.edge import Edge
from serve.proxy_door import SENT_BODY, ProxyDoor

LEFT: Message = {"type": "http.disconnect"}


def piece(body: bytes, *, more_body: bool = False) -> Message:
    return {"type": "http.request", "body": body, "more_body": more_body}


class Client:
    """Sends messages, each after a pause."""

    def __init__(self, *messages: tuple[float, Message]) -> None:
        self._messages = [*messages, (0.0, LEFT)]

    async def receive(self) -> Message:
        pause_s, message = self._messages[0]
        if pause_s:
            await asyncio.sleep(pause_s)
        self._messages.pop(0)
        return message


def pass_door(
    headers: Sequence[tuple[bytes, bytes]], client: Client
) -> tuple[bytes | None, list[Message]]:
    """The body that the scope carries, and what the proxy receives after."""
    seen: list[tuple[bytes | None, list[Message]]] = []

    async def proxy(scope: Scope, receive: Receive, send: Send) -> None:
        received = [await receive()]
        while received[-1] != LEFT:
            received.append(await receive())
        seen.append((scope.get(SENT_BODY), received))

    async def send(message: Message) -> None:
        raise AssertionError(message)

    scope: Scope = {"type": "http", "method": "POST", "path": "/v1", "headers": [*headers]}
    asyncio.run(ProxyDoor(proxy)(scope, client.receive, send))
    return seen[0]


def length(number: object) -> tuple[bytes, bytes]:
    return b"content-length", str(number).encode()


def test_a_small_body_goes_along_with_its_request() -> None:
    client = Client((0.0, piece(b"{}")))
    assert pass_door([length(2)], client) == (b"{}", [LEFT])
    assert pass_door([], Client((0.0, piece(b"")))) == (b"", [LEFT])


@pytest.mark.parametrize(
    ("headers", "messages"),
    [
        ([length(2)], [(0.1, piece(b"{}"))]),
        ([length(2)], [(0.0, piece(b"{", more_body=True)), (0.1, piece(b"}"))]),
        ([length(65537)], [(0.0, piece(b"{}"))]),
        ([length("9" * 5000)], [(0.0, piece(b"{}"))]),
        ([length("²")], [(0.0, piece(b"{}"))]),
        ([length(2), (b"expect", b"100-continue")], [(0.0, piece(b"{}"))]),
        ([(b"transfer-encoding", b"chunked")], [(0.0, piece(b"{}"))]),
        ([length(2)], []),
    ],
)
def test_any_other_body_is_left_to_be_received(
    headers: list[tuple[bytes, bytes]], messages: list[tuple[float, Message]]
) -> None:
    body, received = pass_door(headers, Client(*messages))
    assert body is None
    assert received == [*(message for _, message in messages), LEFT]


@pytest.mark.parametrize("goes_along", [True, False])
def test_the_application_receives_the_same_body_once(*, goes_along: bool) -> None:
    found: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert SENT_BODY not in scope
        found.extend([await receive(), await receive()])
        await send({"type": "http.response.start", "status": 204, "headers": []})

    async def send(message: Message) -> None:
        assert message["status"] == 204

    headers = [length(2), (b"content-type", b"application/json"), (b"host", b"localhost")]
    scope: Scope = {
        "type": "http", "method": "POST", "path": "/health", "headers": headers, "app": None,
        "query_string": b"", "client": ("127.0.0.1", 1),
        "state": {"api_key": ApiKeyConfig(sha256="0" * 64, label="tester")},
    }  # fmt: skip
    if goes_along:
        scope[SENT_BODY] = b"{}"
    client = Client() if goes_along else Client((0.0, piece(b"{}")))
    edge = Edge(app, config=HttpConfig(), needs_key=False)
    asyncio.run(edge(scope, client.receive, send))
    assert found == [piece(b"{}"), LEFT]
