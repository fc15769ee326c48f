from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.attacks.target import key

ROOT = Path(__file__).resolve().parents[2]
CHAT = "/v1/chat/completions"
ERROR_KEYS = {"message", "type", "param", "code"}


@dataclass
class Target:
    """The attacked service in its own process."""

    port: int
    process: psutil.Process
    folder: Path
    log: Path
    rss_at_start: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, name: str | None = "alice") -> httpx.Client:
        headers = {"authorization": f"Bearer {key(name)}"} if name else {}
        return httpx.Client(base_url=self.url, headers=headers, trust_env=False, timeout=60)

    def raw(self, request: bytes, *, wait_s: float = 15.0) -> bytes:
        """One answer, or what came of it until the server closed; raises if neither comes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=wait_s) as connection:
            received = b""
            try:
                connection.sendall(request)
                while not _is_whole(received) and (piece := connection.recv(65_536)):
                    received += piece
            except (ConnectionResetError, BrokenPipeError):  # refused before all was sent
                pass
            return received


def _is_whole(received: bytes) -> bool:
    """Whether an answer has all the bytes that it announced."""
    head, end, rest = received.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    return bool(end) and length is not None and len(rest) >= int(length[1])


def body(text: Any = "hello", **changes: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **changes}


def assert_in_form(answer: httpx.Response, status: int) -> None:
    """An error in OpenAI's form with the page's security headers."""
    assert answer.status_code == status, answer.text[:300]
    assert answer.headers["content-type"] == "application/json"
    assert set(answer.json()["error"]) == ERROR_KEYS
    assert len(answer.content) < 1_000
    assert_safe_headers(answer)


def assert_safe_headers(answer: httpx.Response) -> None:
    policy = answer.headers["content-security-policy"]
    for rule in ("default-src 'none'", "script-src 'self'", "frame-ancestors 'none'",
                 "base-uri 'none'"):  # fmt: skip
        assert rule in policy
    assert "unsafe-eval" not in policy
    assert "script-src 'self' 'unsafe-inline'" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("attacked")
    log = folder / "server.log"
    path = os.pathsep.join([str(ROOT), str(ROOT / "platform")])
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.attacks.target", str(folder)], cwd=ROOT, stderr=errors,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, log.read_text()
    found = Target(int(line), psutil.Process(process.pid), folder, log, 0)
    with found.client() as client:
        for _ in range(5):
            assert client.post(CHAT, json=body()).is_success
    found.rss_at_start = found.process.memory_info().rss
    yield found
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()


def sse_parts(text: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    return [json.loads(line) for line in lines if line != "[DONE]"]
