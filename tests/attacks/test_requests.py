"""Oversized and malformed requests over the wire: refused in form, in bounded time and memory."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

from tests.attacks.conftest import CHAT, Target, assert_in_form, body
from tests.attacks.counting import attack
from tests.attacks.target import MAX_BODY_BYTES, MAX_ONGOING, TIMEOUT_S, key

IN_TIME_S = 15.0
"""Far more than any of this takes, as tests may share their processors."""
JSON = {"content-type": "application/json"}
ONE = {"role": "user", "content": "hi"}


def many(piece: str, around: str = "%s") -> bytes:
    """JSON as long as a body may be, made of one repeated piece."""
    times = (MAX_BODY_BYTES - 200) // (len(piece) + 1)
    return (around % ",".join([piece] * times)).encode()


def nested(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


BODIES: dict[str, tuple[bytes, int]] = {
    "an empty body": (b"", 400),
    "half of an object": (b'{"messages": [', 400),
    "a list": (b"[]", 400),
    "a string": (b'"hello"', 400),
    "null": (b"null", 400),
    "a number": (b"1e999", 400),
    "two objects": (b"{}{}", 400),
    "brackets to the limit": (b"[" * (MAX_BODY_BYTES - 10), 400),
    "braces to the limit": (many('{"a":', "%s"), 400),
    "deep tool_choice": (json.dumps(body())[:-1].encode()
                         + b',"tool_choice":' + nested(20_000).encode() + b"}", 400),
    "an integer of 5,000 digits": (b'{"seed":' + b"9" * 5_000 + b"}", 400),
    "invalid UTF-8": (b'{"messages":[{"role":"user","content":"\xff\xfe\x80"}]}', 400),
    "a lone surrogate": (json.dumps(body("\ud800")).encode(), 400),
    "a lone surrogate as a key": (json.dumps(body(moss={"tools": {"\ud800": 1}})).encode(), 400),
    "a lone surrogate as a model": (json.dumps(body(model="\udfff")).encode(), 400),
    "a NUL": (json.dumps(body("a\0b")).encode(), 400),
    "a byte order mark": (b"\xef\xbb\xbf{}", 400),
    "a body over the limit": (b"x" * (MAX_BODY_BYTES + 1), 413),
    "a body far over the limit": (b"x" * (MAX_BODY_BYTES * 16), 413),
    "a million wrong messages": (many("1", '{"messages":[%s]}'), 400),
    "a million empty messages": (many("{}", '{"messages":[%s]}'), 400),
    "a million wrong parts": (many("1", '{"messages":[{"role":"user","content":[%s]}]}'), 400),
    "a million includes": (
        many("1", '{"messages":[{"role":"user","content":"x"}],"moss":{"include":[%s]}}'), 400),
    "a million client tools": (many("1", '{"tools":[%s]}'), 400),
    "a million unknown keys": (
        b"{" + b",".join(b'"%d":1' % n for n in range(MAX_BODY_BYTES // 11)) + b"}", 400),
    "a million wrong switches": (
        b'{"moss":{"tools":{' + b",".join(b'"%d":5' % n for n in range(MAX_BODY_BYTES // 11))
        + b"}}}", 400),
    "many wrong stops": (many("1", '{"stop":[%s]}'), 400),
    "a deep response format": (json.dumps(body())[:-1].encode() + b',"response_format":'
                               + nested(20_000).encode() + b"}", 400),
    "a key of many characters": (json.dumps({"moss": {"k" * 200_000: 1}}).encode(), 400),
    "a million messages": (many(json.dumps(ONE), '{"messages":[%s]}'), 400),
    "a message of many characters": (json.dumps(body("x" * 200_000)).encode(), 400),
    "system text of many characters": (json.dumps({"messages": [
        *[{"role": "system", "content": "x" * 15_000}] * 14, ONE]}).encode(), 400),
}  # fmt: skip


@attack("hostile bodies", BODIES)
def test_hostile_bodies_are_refused_in_form_and_in_time(
    target: Target, case: tuple[bytes, int]
) -> None:
    content, status = case
    before = target.process.memory_info().rss
    started = time.monotonic()
    with target.client() as client:
        assert_in_form(client.post(CHAT, content=content, headers=JSON), status)
        assert time.monotonic() - started < IN_TIME_S
        assert client.get("/health").is_success
    assert target.process.memory_info().rss - before < 64 << 20


PROMPTS: dict[str, tuple[bytes, int]] = {
    "no prompt": (b"{}", 400),
    "token ids": (b'{"prompt":[1,2,3]}', 400),
    "lists of token ids": (b'{"prompt":[[1],[2]]}', 400),
    "a million prompts": (many('"x"', '{"prompt":[%s]}'), 400),
    "a million wrong prompts": (many("1", '{"prompt":[%s]}'), 400),
    "a million stops": (many('"x"', '{"prompt":"a","stop":[%s]}'), 400),
    "a prompt of many characters": (json.dumps({"prompt": "x" * 200_000}).encode(), 400),
    "a stop of many characters": (json.dumps({"prompt": "a", "stop": "x" * 99_999}).encode(), 400),
    "a lone surrogate": (json.dumps({"prompt": "\ud800"}).encode(), 400),
    "a NUL": (json.dumps({"prompt": "a\0b"}).encode(), 400),
    "an integer of 5,000 digits": (b'{"prompt":"a","n":' + b"9" * 5_000 + b"}", 400),
    "best of many": (b'{"prompt":"a","best_of":1000000}', 400),
    "a prompt given back": (b'{"prompt":"a","echo":true}', 400),
    "a body over the limit": (b"x" * (MAX_BODY_BYTES + 1), 413),
}  # fmt: skip


@attack("hostile completions", PROMPTS)
def test_hostile_completions_are_refused_in_form_and_in_time(
    target: Target, case: tuple[bytes, int]
) -> None:
    content, status = case
    started = time.monotonic()
    with target.client() as client:
        assert_in_form(client.post("/v1/completions", content=content, headers=JSON), status)
        assert time.monotonic() - started < IN_TIME_S


WRONG: list[Any] = [None, True, 1, -1, 1.5, 1e308, "x", "", [], {}, [[]], "NaN", [None]]
TAKEN: dict[str, list[Any]] = {  # what a field may be, of the list above
    "model": ["x", ""], "messages": [], "stream": [True, 1], "stream_options": [None, {}],
    "temperature": [None, True, 1, 1.5], "top_p": [None, True, 1], "max_tokens": [None, True, 1],
    "max_completion_tokens": [None, True, 1], "seed": [None, True, 1, -1], "n": [None, True, 1],
    "tool_choice": [None], "tools": [None, []], "moss": [{}],
    "stop": [None, "x", "NaN", []], "response_format": [None], "logprobs": [None], "user": WRONG,
    "moss.max_tool_rounds": [None, True, 1],
    "moss.tools": [{}], "moss.inner_thoughts": [None, True, 1], "moss.quality": [None],
    "moss.include": [[]], "moss.store": [None, {}], "moss.store.consent": [],
    "moss.store.conversation_id": [None], "moss.store.replace_turn": [None],
}  # fmt: skip


def with_field(path: str, value: Any) -> dict[str, Any]:
    request = body()
    node = request
    *parents, leaf = path.split(".")
    for name in parents:
        node = node.setdefault(name, {})
    node[leaf] = value
    return request


@attack("wrong types", {name: name for name in TAKEN})
def test_wrong_types_are_refused_naming_the_field(target: Target, case: str) -> None:
    with target.client() as client:
        for value in WRONG:
            if any(value is taken or (type(value) is type(taken) and value == taken)
                   for taken in TAKEN[case]):  # fmt: skip
                continue
            answer = client.post(CHAT, json=with_field(case, value))
            assert answer.status_code in (400, 404), (case, value, answer.text)
            assert_in_form(answer, answer.status_code)
            param = str(answer.json()["error"]["param"])
            assert param.startswith(case.split(".")[0]), (value, param)


IMPORTS: dict[str, tuple[bytes, int]] = {
    "a million conversations": (many("1", '{"conversations":[%s]}'), 400),
    "a million empty conversations": (many('{"turns":[]}', '{"conversations":[%s]}'), 400),
    "a million turns": (many("1", '{"conversations":[{"turns":[%s]}]}'), 400),
    "a million wrong turns": (many("{}", '{"conversations":[{"turns":[%s]}]}'), 400),
    "a million keys": (b"{" + many('"a":1')[:-1] + b"1}", 400),
    "too many turns": (many('{"human":"x"}', '{"conversations":[{"turns":[%s]}]}'), 400),
    "a parent that is itself": (
        b'{"conversations":[{"turns":[{"human":"x","id":"a","parent_id":"a"}]}]}', 400),
    "parents in a circle": (
        b'{"conversations":[{"turns":[{"human":"x","id":"a","parent_id":"b"},'
        b'{"human":"y","id":"b","parent_id":"a"}]}]}', 400),
    "nested deeply": (b'{"conversations":' + b"[" * 100_000, 400),
}  # fmt: skip


@attack("hostile imports", IMPORTS)
def test_hostile_imports_are_refused_in_form_and_in_time(
    target: Target, case: tuple[bytes, int]
) -> None:
    content, status = case
    before = target.process.memory_info().rss
    started = time.monotonic()
    with target.client() as client:
        assert_in_form(client.post("/app/import", content=content, headers=JSON), status)
    assert time.monotonic() - started < IN_TIME_S
    assert target.process.memory_info().rss - before < 64 << 20


NUMBERS = {
    "NaN": b"NaN", "infinity": b"Infinity", "minus infinity": b"-Infinity", "1e999": b"1e999",
    "minus one": b"-1", "two to the 70": b"1180591620717411303424", "a half": b"0.5e400",
}  # fmt: skip


@attack("hostile numbers", {
    f"{name} as {field}": (field, number) for name, number in NUMBERS.items()
    for field in ("temperature", "top_p", "max_tokens")
})  # fmt: skip
def test_numbers_out_of_range_are_refused(target: Target, case: tuple[str, bytes]) -> None:
    field, number = case
    content = json.dumps(body())[:-1].encode() + f',"{field}":'.encode() + number + b"}"
    with target.client() as client:
        assert_in_form(client.post(CHAT, content=content, headers=JSON), 400)


HEADERS: dict[str, tuple[str, dict[str, str], int]] = {
    "text as content type": ("POST", {"content-type": "text/plain"}, 415),
    "a form as content type": ("POST", {"content-type": "application/x-www-form-urlencoded"}, 415),
    "XML as content type": ("POST", {"content-type": "application/xml"}, 415),
    "no content type": ("POST", {"content-type": ""}, 415),
    "a foreign origin": ("POST", {**JSON, "origin": "http://evil.test"}, 403),
    "a null origin": ("POST", {**JSON, "origin": "null"}, 403),
    "a broken origin": ("POST", {**JSON, "origin": "http://["}, 403),
    "an origin with our host as user": ("POST", {**JSON, "origin": "http://127.0.0.1@evil"}, 403),
    "Serve's disconnect switch": ("POST", {**JSON, "x-request-disconnect-disabled": "?1"}, 400),
    "Serve's timeout": ("POST", {**JSON, "x-request-timeout-seconds": "0"}, 400),
    "Serve's session": ("POST", {**JSON, "x-session-id": "a"}, 400),
    "Serve's session, other spelling": ("POST", {**JSON, "x_session_id": "a"}, 400),
    "Serve's model": ("POST", {**JSON, "serve_multiplexed_model_id": "a"}, 400),
    "Serve's model, other spelling": ("POST", {**JSON, "serve-multiplexed-model-id": "a"}, 400),
    "Serve's router": ("POST", {**JSON, "x-serve-router-replica": "a"}, 400),
    "another method": ("PUT", JSON, 405),
    "PATCH": ("PATCH", JSON, 405),
    "DELETE": ("DELETE", JSON, 405),
    "an overriding method header": ("GET", {**JSON, "x-http-method-override": "POST"}, 405),
    "an invented method": ("BREW", JSON, 405),
}


@attack("hostile headers and methods", HEADERS)
def test_hostile_headers_are_refused_in_form(
    target: Target, case: tuple[str, dict[str, str], int]
) -> None:
    method, headers, status = case
    with target.client() as client:
        content = json.dumps(body())
        answer = client.request(method, CHAT, content=content, headers=headers)
    assert_in_form(answer, status)


PATHS = {
    "up from static": "/static/../app.py",
    "encoded dots": "/static/..%2f..%2fserve%2fapp.py",
    "doubly encoded dots": "/static/%252e%252e%252fapp.py",
    "backslashes": "/static/..%5c..%5cserver.log",
    "an absolute name": "/static/%2fetc%2fpasswd",
    "a NUL in a name": "/static/app.js%00.png",
    "overlong UTF-8": "/static/%c0%ae%c0%ae%c0%afapp.py",
    "a dot file": "/static/.env",
    "an image outside": "/app/images/..%2fkeys.yaml",
    "an image by path": "/app/images/%2fetc%2fpasswd",
    "an image with a newline": "/app/images/" + "0" * 32 + "%0a",
    "an image id that is none": "/app/images/" + "g" * 32,
    "an image id too long": "/app/images/" + "0" * 33,
    "an image that is not there": "/app/images/" + "0" * 32,
    "a conversation by path": "/app/conversations/..%2f..%2fkeys.yaml",
    "a conversation with quotes": "/app/conversations/'%20OR%20'1'='1",
    "a model by path": "/v1/models/../../etc/passwd",
    "a model with markup": "/v1/models/<script>alert(1)</script>",
    "the interactive docs": "/docs",
    "the API's schema": "/openapi.json",
    "a metrics page": "/metrics",
    "a debugger": "/debug/pprof",
    "a git folder": "/.git/config",
    "a double slash": "//v1/models",
}


@attack("hostile paths", PATHS)
def test_hostile_paths_give_nothing(target: Target, case: str) -> None:
    request = f"GET {case} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key('alice')}\r\n"
    answer = target.raw(f"{request}Connection: close\r\n\r\n".encode())
    head, _, text = answer.partition(b"\r\n\r\n")
    status = int(head.split()[1])
    assert status in (400, 404), answer[:300]
    assert set(json.loads(text)["error"]) == {"message", "type", "param", "code"}
    assert b"sha256" not in text
    assert b"root:" not in text
    assert b"x-content-type-options: nosniff" in head.lower()


HEAD = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key('alice')}\r\n"
SEND = json.dumps(body())
WIRE: dict[str, tuple[str, tuple[int, ...]]] = {
    "two content lengths": ("Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", (400,)),
    "length and chunks": (
        "Connection: close\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
        "0\r\n\r\n", (400,)),
    "a negative length": ("Content-Length: -5\r\n\r\n", (400,)),
    "a length with a plus": ("Content-Length: +5\r\n\r\nhello", (400,)),
    "a length of 30 digits": (f"Content-Length: {'9' * 30}\r\n\r\n", (400, 413)),
    "a superscript length": ("Content-Length: \u00b2\r\n\r\n", (400,)),
    "chunks of no size": ("Transfer-Encoding: chunked\r\n\r\nzz\r\n", (400,)),
    "a header without colon": ("no colon\r\n\r\n", (400,)),
    "a header with a NUL": ("X-A: a\0b\r\n\r\n", (400,)),
    "a folded header": ("X-A: a\r\n b\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", (400,)),
    "a flood of headers": ("X-A: b\r\n" * 20_000 + "\r\n", (400, 431)),
    "one endless header": ("X-A: " + "b" * 200_000 + "\r\n\r\n", (400, 431)),
    "a second authorization": (
        "Authorization: Bearer x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", (400,)),
    "an unknown expectation": (
        f"Expect: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(SEND)}\r\n\r\n{SEND}", (200, 417)),
}  # fmt: skip


@attack("broken HTTP", WIRE)
def test_broken_http_is_answered_and_closed(
    target: Target, case: tuple[str, tuple[int, ...]]
) -> None:
    rest, statuses = case
    started = time.monotonic()
    answer = target.raw((HEAD + rest).encode("latin-1"))
    assert answer == b"" or int(answer.split()[1]) in statuses, answer[:200]
    assert time.monotonic() - started < IN_TIME_S


UNFINISHED = {
    "a body that never comes": "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n",
    "half a body": 'Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"mes',
    "chunks without end": "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
}


@attack("bodies without end", UNFINISHED)
def test_a_body_that_does_not_arrive_is_given_up(target: Target, case: str) -> None:
    started = time.monotonic()
    answer = target.raw((HEAD + "Connection: close\r\n" + case).encode(), wait_s=TIMEOUT_S + 5)
    assert answer.split()[1] == b"408", answer[:200]
    assert b'"code":"body_too_slow"' in answer
    assert time.monotonic() - started < TIMEOUT_S + IN_TIME_S


def test_an_endless_chunked_body_is_cut_at_the_limit(target: Target) -> None:
    chunk = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
    head = f"{HEAD}Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    answer = target.raw(head + chunk * 200)
    assert answer == b"" or answer.split()[1] == b"413"  # or cut off while we were sending


def test_response_headers_cannot_be_split(target: Target) -> None:
    with target.client() as client:
        for value in ("a%0d%0aset-cookie: x=1", "a" * 65, "<b>", "é"):
            answer = client.get("/health", headers={b"x-request-id": value.encode()})
            assert answer.headers["x-request-id"] != value
            assert "x=1" not in answer.headers.get("set-cookie", "")


def test_a_reader_that_stops_reading_is_cut_off_and_frees_its_place(target: Target) -> None:
    content = json.dumps(body("SLOW", stream=True))
    request = f"{HEAD}Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    sockets = []
    try:
        for _ in range(MAX_ONGOING):
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(5)
            connection.connect(("127.0.0.1", target.port))
            connection.sendall((request + content).encode())
            sockets.append(connection)
        deadline = time.monotonic() + TIMEOUT_S + 15
        with target.client() as client:
            time.sleep(0.3)
            busy = client.post(CHAT, json=body())
            assert_in_form(busy, 429)
            while client.post(CHAT, json=body()).status_code != 200:
                assert time.monotonic() < deadline, "slow readers hold their places"
                time.sleep(0.2)
    finally:
        for connection in sockets:
            connection.close()


def test_a_long_history_does_not_hold_the_service_up(target: Target) -> None:
    talk = [{"role": ("user", "assistant")[n % 2], "content": f"word {n} " * 140}
            for n in range(199)]  # fmt: skip
    assert len(json.dumps(talk)) < MAX_BODY_BYTES
    started = time.monotonic()
    with target.client() as client:
        answer = client.post(CHAT, json={"messages": talk})
    assert answer.is_success, answer.text[:200]
    assert time.monotonic() - started < IN_TIME_S
