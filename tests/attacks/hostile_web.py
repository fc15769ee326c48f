"""A small internet in a network namespace of its own, with servers that nobody may reach.

Usage: unshare -n python -m tests.attacks.hostile_web   (prints one JSON object: case -> outcome)

The namespace has a loopback device only, so no packet can leave it. Public and private addresses
are given to that device: a page server on public ones, and on the metadata service's, private and
loopback ones a server that writes down who asked.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable

from moss.config.tools import SearchConfig
from moss.config.web import FetchConfig, WebConfig
from moss.tools.fetching import FetchError, Resolve, fetch, resolve_by_system
from moss.tools.web_search import WebSearch

PUBLIC, PUBLIC_6 = "93.184.215.14", "2606:2800:21f:cb07::1"
METADATA = "169.254.169.254"
PRIVATE = (METADATA, "10.0.0.5", "192.168.1.1", "172.16.9.9", "100.64.0.1", "224.0.0.1")
PRIVATE_6 = ("fd00:ec2::254", "fec0::1", "2002:a9fe:a9fe::1", "64:ff9b::a9fe:a9fe")
LIMITS = FetchConfig(timeout_s=0.6, max_bytes=64 * 1024)
SECRET = b"metadata-secret"

REFUSED = {
    "the metadata service": f"http://{METADATA}/latest/meta-data/",
    "the metadata service over IPv6": "http://[fd00:ec2::254]/",
    "the metadata service, decimal": "http://2852039166/",
    "the metadata service, octal": "http://0251.0376.0251.0376/",
    "the metadata service, hexadecimal": "http://0xa9fea9fe/",
    "the metadata service, hexadecimal parts": "http://0xa9.0xfe.0xa9.0xfe/",
    "the metadata service, mixed": "http://169.0376.43518/",
    "the metadata service, mapped": "http://[::ffff:169.254.169.254]/",
    "the metadata service, mapped in hexadecimal": "http://[::ffff:a9fe:a9fe]/",
    "the metadata service, compatible": "http://[::169.254.169.254]/",
    "the metadata service by 6to4": "http://[2002:a9fe:a9fe::1]/",
    "the metadata service by NAT64": "http://[64:ff9b::a9fe:a9fe]/",
    "the metadata service by name": "http://metadata.test/",
    "the metadata service with a dot": f"http://{METADATA}./",
    "the metadata service in full-width digits": "http://１６９.２５４.１６９.２５４/",
    "loopback": "http://127.0.0.1/",
    "loopback, short": "http://127.1/",
    "loopback, decimal": "http://2130706433/",
    "loopback, octal": "http://0177.0.0.1/",
    "loopback by name": "http://localhost/",
    "loopback over IPv6": "http://[::1]/",
    "loopback with a zone": "http://[::1%25lo]/",
    "any address": "http://0.0.0.0/",
    "any address, short": "http://0/",
    "any address over IPv6": "http://[::]/",
    "a private network, ten": "http://10.0.0.5/",
    "a private network, 192.168": "http://192.168.1.1/",
    "a private network, 172.16": "http://172.16.9.9/",
    "carrier networks": "http://100.64.0.1/",
    "multicast": "http://224.0.0.1/",
    "broadcast": "http://255.255.255.255/",
    "a site-local address": "http://[fec0::1]/",
    "a name of a public and a private address": "http://both.test/",
    "a name of a private and a public address": "http://both-turned.test/",
    "a name that is rebound": "http://rebinding.test/again",
    "a name without address": "http://nowhere.test/",
    "a user in front": f"http://public.test@{METADATA}/",
    "a user and a password": f"http://public.test:80@{METADATA}/",
    "a backslash": f"http://public.test\\@{METADATA}/",
    "a fragment in front": f"http://{METADATA}#@public.test/",
    "a tab in the host": f"http://{METADATA}\t.public.test/",
    "a newline in the path": "http://public.test/\r\nHost: metadata.test",
    "a redirect to the metadata service": "http://public.test/to-metadata",
    "a redirect by name": "http://public.test/to-name",
    "a redirect to loopback": "http://public.test/to-loopback",
    "a redirect to a file": "http://public.test/to-file",
    "a redirect to gopher": "http://public.test/to-gopher",
    "a redirect without scheme": "http://public.test/to-relative-host",
    "a redirect to another port": "http://public.test/to-port",
    "a redirect with a user": "http://public.test/to-user",
    "a redirect without end": "http://public.test/to-itself",
    "a file": "file:///etc/passwd",
    "gopher": f"gopher://{METADATA}:80/_GET%20/",
    "ftp": f"ftp://{METADATA}/",
    "data": "data:text/html,<p>x</p>",
    "javascript": "javascript:alert(1)",
    "a unix socket": "http+unix://%2frun%2fdocker.sock/",
    "no scheme": "//public.test/page",
    "another port": "http://public.test:8080/page",
    "the port of a database": "http://public.test:5432/",
    "port zero": "http://public.test:0/",
    "a port out of range": "http://public.test:99999/",
    "no host": "http:///page",
    "a broken address": "http://[::1/",
    "a host of many characters": "http://" + "a" * 3_000 + ".test/",
    "a label of many characters": "http://" + "a" * 100 + ".test/",
    "an image": "http://public.test/image",
    "a script": "http://public.test/javascript",
    "no content type": "http://public.test/untyped",
    "a gzip bomb": "http://public.test/gzip",
    "a body that trickles": "http://public.test/trickle",
    "a head that trickles": "http://public.test/slow-head",
    "a head without end": "http://public.test/endless-head",
    "an answer that is no HTTP": "http://public.test/garbage",
    "an error page": "http://public.test/missing",
    "a silent server": "http://public.test/silent",
}  # fmt: skip
ANSWERED = {
    "a page": "http://public.test/page",
    "a page over IPv6": "http://public6.test/page",
    "a page behind redirects": "http://public.test/to-page",
    "a huge body is cut": "http://public.test/huge",
    "a rebound name, first answer": "http://rebinding.test/page",
}
SEARCH = "a search"
HITS = [
    ("http://public.test/page", "Good"), (f"http://{METADATA}/", "Metadata"),
    ("javascript:alert(1)", "Script"),
]  # fmt: skip
_PAGE = b"<title>Page</title><p>A public page.</p>"
_REDIRECTS = {
    "/to-metadata": f"http://{METADATA}/", "/to-name": "http://metadata.test/",
    "/to-loopback": "http://127.0.0.1/", "/to-file": "file:///etc/passwd",
    "/to-gopher": f"gopher://{METADATA}/", "/to-relative-host": f"//{METADATA}/",
    "/to-port": "http://public.test:8080/", "/to-user": "http://a:b@public.test/page",
    "/to-itself": "/to-itself", "/to-page": "/page", "/again": "http://rebinding.test/page",
}  # fmt: skip
_BODIES = {
    "/search?q=page&format=json": (b"application/json", json.dumps({"results": [
        {"title": title, "url": url, "content": "A snippet."} for url, title in HITS
    ]}).encode()),
    "/page": (b"text/html", _PAGE), "/image": (b"image/png", b"\x89PNG"),
    "/javascript": (b"text/javascript", b"1"), "/untyped": (b"", b"x"),
    "/gzip": (b"text/html\r\nContent-Encoding: gzip", gzip.compress(bytes(1 << 24))),
}  # fmt: skip
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def _public(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The public web server, hostile on purpose."""
    path = (await reader.readline()).split()[1].decode()
    while (await reader.readline()).strip():
        pass
    if path in _REDIRECTS:
        writer.write(f"HTTP/1.1 302 Found\r\nLocation: {_REDIRECTS[path]}\r\n".encode())
        writer.write(b"Content-Length: 0\r\n\r\n")
    elif path in _BODIES:
        kind, body = _BODIES[path]
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: " + kind)
        writer.write(b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    elif path == "/garbage":
        writer.write(b"\x00\xff garbage\r\n\r\n")
    elif path == "/slow-head":
        await _pour(writer, b"X", 0.05)
    elif path == "/endless-head":
        await _pour(writer, b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 1_000, 0.0)
    elif path == "/silent":
        await asyncio.sleep(30)
    elif path in ("/trickle", "/huge"):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n")
        await _pour(writer, b"x" if path == "/trickle" else b"x" * 65_536,
                    0.05 if path == "/trickle" else 0.0)  # fmt: skip
    else:
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
    await writer.drain()
    writer.close()


async def _pour(writer: asyncio.StreamWriter, piece: bytes, pause_s: float) -> None:
    """Send for at most ten seconds, or until the other side leaves."""
    ends = time.monotonic() + 10
    while time.monotonic() < ends and not writer.is_closing():
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(pause_s)


def _resolver() -> Resolve:
    names = {
        "public.test": [PUBLIC], "public6.test": [PUBLIC_6], "metadata.test": [METADATA],
        "both.test": [PUBLIC, METADATA], "both-turned.test": [METADATA, PUBLIC],
    }  # fmt: skip
    asked: list[str] = []

    async def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        if host == "rebinding.test":  # public when it is checked, private when it is asked again
            return [PUBLIC if asked.count(host) == 1 else METADATA]
        if host.endswith(".test"):
            return names.get(host, [])
        return await resolve_by_system(host, port)

    return resolve


async def _outcome(url: str, touched: list[str]) -> dict[str, object]:
    touched.clear()
    started = time.monotonic()
    result: dict[str, object]
    try:
        page = await fetch(url, LIMITS, resolve=_resolver())
        result = {"ok": True, "num_bytes": len(page.body), "secret": SECRET in page.body}
    except FetchError as error:
        result = {"ok": False, "reason": str(error)}
    return {**result, "seconds": time.monotonic() - started, "touched": list(touched)}


async def _search(touched: list[str]) -> dict[str, object]:
    """A whole search: the good page is read, the others are left to their snippets."""
    touched.clear()
    web = WebConfig(provider="searxng", endpoint=f"http://{PUBLIC}", fetch=LIMITS)
    tool = WebSearch(SearchConfig(web=web), web, environment={}, resolve=_resolver())
    output = await tool.call("page")
    pages = [[page.title, page.source, page.text] for page in output.references]
    return {"pages": pages, "touched": list(touched)}


async def main() -> None:
    """Set the network up, try every URL, print what came of it."""
    touched: list[str] = []

    async def forbidden(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        touched.append(str(writer.get_extra_info("sockname")))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + SECRET)
        await writer.drain()
        writer.close()

    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for address in (f"{PUBLIC}/32", *(f"{item}/32" for item in PRIVATE[:-1])):
        subprocess.run(["ip", "address", "add", address, "dev", "lo"], check=True)
    for address in (PUBLIC_6, *PRIVATE_6):
        subprocess.run(["ip", "address", "add", f"{address}/128", "dev", "lo"], check=True)
    async with asyncio.timeout(100):
        await asyncio.start_server(_public, PUBLIC, 80)
        await asyncio.start_server(_public, PUBLIC_6, 80)
        for address in (*PRIVATE[:-1], *PRIVATE_6, "127.0.0.1", "::1"):
            await asyncio.start_server(forbidden, address, 80)
        for port in (8080, 5432):
            await asyncio.start_server(forbidden, PUBLIC, port)
        with socket.create_connection((METADATA, 80), 2):  # the canary sings when it is touched
            await asyncio.sleep(0.1)
        assert len(touched) == 1
        outcomes = {name: await _outcome(url, touched)
                    for name, url in (REFUSED | ANSWERED).items()}  # fmt: skip
        outcomes[SEARCH] = await _search(touched)
    json.dump(outcomes, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main())
