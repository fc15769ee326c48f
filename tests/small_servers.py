"""HTTP servers of a few lines that play a remote service."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[[str, Mapping[str, str]], tuple[int, str]]
"""(path, headers) -> (HTTP status, JSON body)."""

PostAnswer = Callable[[dict[str, object], Mapping[str, str]], tuple[int, str, Mapping[str, str]]]
"""(JSON body, headers) -> (HTTP status, body, headers)."""


@contextmanager
def serve_gets(answer: Answer) -> Iterator[str]:
    """Address of a server on loopback that answers GET requests while the block runs."""

    class Handler(_Quiet):
        def do_GET(self) -> None:
            status, body = answer(self.path, dict(self.headers))
            self.reply(status, body, {})

    with _serving(Handler) as url:
        yield url


@contextmanager
def serve_posts(answer: PostAnswer) -> Iterator[str]:
    """Address of a server on loopback that answers POST requests of JSON."""

    class Handler(_Quiet):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.reply(*answer(body, dict(self.headers)))

    with _serving(Handler) as url:
        yield url


class _Quiet(BaseHTTPRequestHandler):
    def reply(self, status: int, body: str, headers: Mapping[str, str]) -> None:
        data = body.encode()
        self.send_response(status)
        sent = {"Content-Type": "application/json", "Content-Length": str(len(data))}
        for name, value in (sent | dict(headers)).items():
            self.send_header(name, value)
        self.end_headers()
        with suppress(ConnectionError):  # a client that gave up
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        return


@contextmanager
def _serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
