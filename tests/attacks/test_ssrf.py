"""Fetching for search: private addresses are never reached, and bad pages cost bounded time."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from typing import Any

import pytest

from moss.tools.fetching import is_public
from moss.tools.page_text import ExtractionError, extract
from tests.attacks.conftest import ROOT
from tests.attacks.counting import attack
from tests.attacks.hostile_web import ANSWERED, HITS, LIMITS, REFUSED, SEARCH

OWN_NAMESPACE = ("unshare", "--net")


def namespace_refused() -> str:
    """Why no network namespace can be made here; empty where one can."""
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return "unshare or ip is not installed"
    for command in (OWN_NAMESPACE, ("unshare", "--map-root-user", "--net")):
        tried = subprocess.run([*command, "true"], capture_output=True, timeout=20, check=False)
        if tried.returncode == 0:
            return ""
    return f"network namespaces are refused: {tried.stderr.decode()[:100]}"


@pytest.fixture(scope="module")
def outcomes() -> dict[str, dict[str, Any]]:
    """What came of every URL, tried in a network namespace of its own."""
    if reason := namespace_refused():
        pytest.skip(reason)
    path = os.pathsep.join([str(ROOT), str(ROOT / "platform")])
    user = () if os.geteuid() == 0 else ("--map-root-user",)
    done = subprocess.run(
        [*OWN_NAMESPACE, *user, sys.executable, "-m", "tests.attacks.hostile_web"], cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()[-2_000:]
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return found


@attack("URLs that must not be fetched", {name: name for name in REFUSED})
def test_nothing_private_is_reached(outcomes: dict[str, dict[str, Any]], case: str) -> None:
    outcome = outcomes[case]
    assert outcome["touched"] == [], outcome
    assert not outcome["ok"], outcome
    assert outcome["seconds"] < LIMITS.timeout_s + 2


@pytest.mark.parametrize("name", ANSWERED)
def test_public_pages_are_fetched(outcomes: dict[str, dict[str, Any]], name: str) -> None:
    outcome = outcomes[name]
    assert outcome["ok"], outcome
    assert outcome["touched"] == []
    assert not outcome["secret"]
    assert 0 < outcome["num_bytes"] <= LIMITS.max_bytes


def test_a_search_reads_public_pages_and_no_others(outcomes: dict[str, dict[str, Any]]) -> None:
    found = outcomes[SEARCH]
    assert found["touched"] == []
    assert found["pages"] == [
        ["Good", HITS[0][0], "A public page."], ["Metadata", HITS[1][0], "A snippet."],
    ]  # fmt: skip


ADDRESSES = {
    address: address for address in (
        "127.0.0.1", "127.255.255.254", "0.0.0.0", "10.1.2.3", "172.31.255.255", "192.168.0.1",
        "169.254.169.254", "100.64.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1",
        "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "::", "::1", "fe80::1",
        "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1",
        "::ffff:10.0.0.1", "::ffff:8.8.8.8", "::10.0.0.1", "2002:7f00:1::", "2001:0:53aa::1",
        "64:ff9b::7f00:1", "64:ff9b:1::1", "", "localhost", "1", "0x7f.1", "١٢٧.٠.٠.١",
    )
}  # fmt: skip


@attack("addresses that are not public", ADDRESSES)
def test_an_address_that_is_not_public_is_known_as_such(case: str) -> None:
    assert not is_public(case)


def test_public_addresses_are_known_as_such() -> None:
    assert all(map(is_public, ("8.8.8.8", "93.184.215.14", "2606:2800:21f:cb07::1")))


BOMB = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">' + b"".join(
    b'<!ENTITY %c "%s">' % (98 + n, b"&%c;" % (97 + n) * 10) for n in range(9)
)
MIB = 1 << 20
PAGES: dict[str, bytes] = {
    "nested divs": b"<div>" * (MIB // 5),
    "nested links": b"<a href=x>" * (MIB // 10),
    "nested tables": b"<table><tr><td>" * (MIB // 15),
    "unclosed comments": b"<!--" * (MIB // 4),
    "unclosed declarations": b"<!" * (MIB // 2),
    "unclosed instructions": b"<?" * (MIB // 2),
    "unclosed CDATA": b"<![CDATA[" * (MIB // 9),
    "unclosed tags": b"<a" * (MIB // 2),
    "a tag of many attributes": b"<p " + b"a=b " * (MIB // 4) + b">x</p>",
    "an attribute of many quotes": b"<p a=" + b"'\"" * (MIB // 2) + b">",
    "a tag name without end": b"<" + b"p" * MIB,
    "character references": b"&#x41;&amp;&nosuch;" * (MIB // 19),
    "a reference of many digits": b"&#" + b"9" * MIB + b";",
    "an entity bomb": BOMB + b"]><p>&j;</p>",
    "an external entity": b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><p>&a;</p>',
    "an include": b'<p><!--#include file="/etc/passwd"--><iframe src="file:///etc/passwd">',
    "less-than signs": b"<" * MIB,
    "end tags": b"</p" * (MIB // 3),
    "script without end": b"<script>" + b"</scrip" * (MIB // 7),
    "nothing but NUL": b"\0" * MIB,
    "invalid UTF-8": bytes(range(128, 256)) * (MIB // 128),
    "UTF-7": b"<meta charset=utf-7>+ADw-script+AD4-alert(1)+ADw-/script+AD4-",
    "a codec that is none": b"<meta charset=zlib_codec><p>x</p>",
    "a codec with side effects": b"<meta charset=unicode_escape><p>\\N{DIGIT ONE}\\ud800</p>",
    "spaces": b"<p>" + b" " * MIB,
    "one word": b"<p>" + b"a" * MIB,
}


@attack("pages that are bombs", PAGES)
def test_a_hostile_page_costs_bounded_time_and_memory(case: bytes) -> None:
    started = time.monotonic()
    try:
        page = asyncio.run(extract(case, "text/html", timeout_s=1.0, memory_bytes=512 << 20))
    except ExtractionError:
        page = None
    assert time.monotonic() - started < 4
    if page is not None:
        assert len(page.text) <= 200_000
        assert "root:" not in page.text
        page.text.encode()
    used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    assert used < 1 << 30
