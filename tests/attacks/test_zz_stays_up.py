"""Last of the suite: the attacked service answers as before, did not grow, logged no secret."""

from __future__ import annotations

import pytest

from tests.attacks.conftest import CHAT, Target, body
from tests.attacks.target import KEYS, key

MAX_GROWTH_BYTES = 96 << 20
"""Of the attacked service's resident memory over the whole table."""
MARK = "words-of-a-user-0815"


def test_the_service_answers_as_before(target: Target) -> None:
    with target.client() as client:
        assert client.get("/health").json() == {"status": "ok"}
        assert client.get("/ready").json()["status"] == "ready"
        whole = client.post(CHAT, json=body("still there?")).json()
        assert whole["choices"][0]["message"]["content"] == "still there?"
        stream = client.post(CHAT, json=body(stream=True)).text
        assert stream.endswith("data: [DONE]\n\n")


def test_the_services_memory_is_bounded(target: Target) -> None:
    growth = target.process.memory_info().rss - target.rss_at_start
    assert growth < MAX_GROWTH_BYTES, f"{growth >> 20} MiB"


@pytest.mark.parametrize("name", KEYS)
def test_no_key_and_no_user_text_is_logged(target: Target, name: str) -> None:
    with target.client(name) as client:
        client.post(CHAT, json=body(MARK))
        client.post(CHAT, json=body(MARK, n=7))
        client.post(CHAT, json=body([{"type": "text", "text": MARK}, 1]))
    log = target.log.read_text(encoding="utf-8", errors="replace")
    for secret in (key(name), MARK):
        assert [line for line in log.splitlines() if secret in line] == []
