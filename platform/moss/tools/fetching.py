"""Fetches pages of the public web, and reaches nothing else (no server-side request forgery).

A name is resolved once per connection, every address it has is checked, and the connection goes to
the address that was checked: a second, other answer of the resolver is never asked for. Redirects
are followed by hand, and each is a new URL under the same rules. What spelling an address has
(decimal, octal, mapped into IPv6) does not matter, since the address is checked that is connected.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urljoin, urlsplit

import httpcore
import httpx

from moss.config.web import FetchConfig

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""Addresses of a host name."""

_MAX_URL_CHARS: Final = 2_000
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_TYPES: Final = ("text/html", "application/xhtml+xml", "text/plain")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_HEADERS: Final = (
    ("User-Agent", "moss-platform"),
    ("Accept", ", ".join(_TYPES)),
    ("Accept-Encoding", "identity"),  # nothing to unpack, so nothing that grows when unpacked
)


class FetchError(Exception):
    """A page was refused or could not be had; the message says why."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A page as it came."""

    url: str
    """Where the redirects ended."""
    content_type: str
    """Of `text/html`, `application/xhtml+xml`, `text/plain`, with its parameters."""
    body: bytes
    """At most `max_bytes`."""


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet, whatever it is wrapped in."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address) and (
        ip.ipv4_mapped or ip.sixtofour or ip.teredo or ip in _NAT64 or ip.is_site_local
    ):
        return False
    # Multicast counts as global there, and some reserved ranges do.
    special = ip.is_multicast or ip.is_reserved or ip.is_loopback or ip.is_link_local
    return ip.is_global and not special


def checked_url(url: str, ports: Iterable[int] = (80, 443)) -> str:
    """A URL that may be fetched, in ASCII.

    Raises:
        FetchError: another scheme or port, a user in it, or no URL at all.
    """
    try:
        if len(url) > _MAX_URL_CHARS or not url.isprintable() or "\\" in url or " " in url:
            raise ValueError
        url = url if url.isascii() else str(httpx.URL(url))
        parts = urlsplit(url)
        port = _DEFAULT_PORTS.get(parts.scheme, 0) if parts.port is None else parts.port
    except (ValueError, httpx.InvalidURL) as error:
        raise FetchError("not a URL") from error
    if parts.scheme not in _DEFAULT_PORTS:
        raise FetchError(f"the scheme {parts.scheme[:20]!r} is not http or https")
    if parts.username is not None or parts.password is not None:
        raise FetchError("a URL with a user name")
    if not parts.hostname:
        raise FetchError("a URL without a host")
    if port not in ports:
        raise FetchError(f"port {port} is not fetched from")
    return url


async def resolve_by_system(host: str, port: int) -> list[str]:
    """Addresses of a host by the system's resolver. Raises OSError where there are none."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(item[4][0]) for item in found]


class _PublicNetwork(httpcore.AsyncNetworkBackend):
    """Connects to checked addresses only."""

    def __init__(self, resolve: Resolve) -> None:
        self._resolve = resolve
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the host's first address if all that it has are public."""
        addresses = await self._resolve(host, port)
        if not addresses or not all(map(is_public, addresses)):
            raise FetchError(f"{host} is not on the public internet")
        return await self._network.connect_tcp(
            addresses[0], port, timeout, local_address, socket_options
        )

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Refused."""
        del path, timeout, socket_options
        raise FetchError("unix sockets are not fetched from")

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


async def fetch(url: str, config: FetchConfig, *, resolve: Resolve = resolve_by_system) -> Fetched:
    """The page at `url`, its first `max_bytes`.

    Raises:
        FetchError: refused, not text, too slow, too many redirects, or an error of the network.
    """
    try:
        async with asyncio.timeout(config.timeout_s):
            for _ in range(config.max_redirects + 1):
                answer = await _get(url, config, resolve)
                if isinstance(answer, Fetched):
                    return answer
                url = answer
    except TimeoutError as error:
        raise FetchError(f"not fetched within {config.timeout_s:g} s") from error
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
        raise FetchError(f"network failure: {type(error).__name__}") from error
    except (OSError, ValueError) as error:  # the resolver's, and names that no resolver takes
        raise FetchError(f"no connection: {type(error).__name__}") from error
    raise FetchError(f"more than {config.max_redirects} redirects")


async def _get(url: str, config: FetchConfig, resolve: Resolve) -> Fetched | str:
    """One request: the page, or where it redirects to."""
    url = checked_url(url, config.ports)
    pool = httpcore.AsyncConnectionPool(
        ssl_context=ssl.create_default_context(),
        max_connections=1,
        network_backend=_PublicNetwork(resolve),
    )
    wait = dict.fromkeys(("connect", "read", "write", "pool"), config.timeout_s)
    async with (
        pool,
        pool.stream("GET", url, headers=list(_HEADERS), extensions={"timeout": wait}) as response,
    ):
        headers = {name.lower().decode("latin-1"): value.decode("latin-1")
                   for name, value in response.headers}  # fmt: skip
        if response.status in _REDIRECTS and "location" in headers:
            return urljoin(url, headers["location"])
        if response.status != 200:
            raise FetchError(f"HTTP status {response.status}")
        content_type = headers.get("content-type", "")
        if content_type.partition(";")[0].strip().lower() not in _TYPES:
            raise FetchError(f"content of type {content_type[:60]!r}")
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise FetchError(f"packed content ({headers['content-encoding'][:20]!r})")
        body = bytearray()
        async for piece in response.aiter_stream():
            body += piece
            if len(body) >= config.max_bytes:
                break
        return Fetched(url, content_type, bytes(body[: config.max_bytes]))
