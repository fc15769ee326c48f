"""Search providers of the web: Google Custom Search, SearXNG, Brave, Tavily.

Each is a request that is built and an answer that is read. A provider is chosen by the operator, so
its own address is trusted; the addresses that it answers with are not (`moss.tools.fetching`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import httpx

from moss.config.web import ProviderName, WebConfig

_MAX_ANSWER_BYTES: Final = 2 << 20
_ENDPOINTS: Final[dict[ProviderName, str]] = {
    "google": "https://www.googleapis.com/customsearch/v1",
    "brave": "https://api.search.brave.com/res/v1/web/search",
    "tavily": "https://api.tavily.com/search",
}


class ProviderError(Exception):
    """The provider gave no hits; the message says why and never holds the key."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One page that a provider found."""

    title: str
    url: str
    snippet: str


def build_request(config: WebConfig, key: str, query: str, top_k: int) -> httpx.Request:
    """The provider's request for the best `top_k` pages."""
    endpoint = config.endpoint or _ENDPOINTS.get(config.provider, "")
    match config.provider:
        case "google":
            parameters = {"key": key, "cx": config.engine_id or "", "q": query, "num": str(top_k)}
            return httpx.Request("GET", endpoint, params=parameters)
        case "searxng":
            url = f"{endpoint.rstrip('/')}/search"
            return httpx.Request("GET", url, params={"q": query, "format": "json"})
        case "brave":
            headers = {"X-Subscription-Token": key, "Accept": "application/json"}
            parameters = {"q": query, "count": str(top_k)}
            return httpx.Request("GET", endpoint, params=parameters, headers=headers)
        case "tavily":
            headers = {"Authorization": f"Bearer {key}"}
            content = {"query": query, "max_results": top_k}
            return httpx.Request("POST", endpoint, json=content, headers=headers)


_FIELDS: Final[dict[ProviderName, tuple[tuple[str, ...], str, str]]] = {
    "google": (("items",), "link", "snippet"),
    "searxng": (("results",), "url", "content"),
    "brave": (("web", "results"), "url", "description"),
    "tavily": (("results",), "url", "content"),
}
"""Path of the list of hits, and the names of address and snippet in each."""


def read_hits(provider: ProviderName, answer: object, top_k: int) -> list[Hit]:
    """The hits of an answer, best first; entries without an address are left out."""
    path, address, snippet = _FIELDS[provider]
    for name in path:
        answer = answer.get(name) if isinstance(answer, Mapping) else None
    entries = answer if isinstance(answer, list) else []
    hits = [
        Hit(_text(entry.get("title")), _text(entry.get(address)), _text(entry.get(snippet)))
        for entry in entries
        if isinstance(entry, Mapping)
    ]
    return [hit for hit in hits if hit.url][:top_k]


async def find_hits(config: WebConfig, key: str, query: str, top_k: int) -> list[Hit]:
    """Ask the provider.

    Raises:
        ProviderError: it cannot be reached, refuses, or answers no JSON.
    """
    request = build_request(config, key, query, top_k)
    try:
        async with httpx.AsyncClient(timeout=config.timeout_s, trust_env=False) as client:
            response = await client.send(request, stream=True)
            try:
                answer = bytearray()
                async for piece in response.aiter_bytes():
                    answer += piece
                    if len(answer) > _MAX_ANSWER_BYTES:
                        raise ProviderError(f"{config.provider} answered without end")
            finally:
                await response.aclose()
    except httpx.HTTPError as error:  # its message may hold the URL, and that the key
        raise ProviderError(f"{config.provider}: {type(error).__name__}") from None
    if response.status_code != 200:
        raise ProviderError(f"{config.provider} answered HTTP status {response.status_code}")
    try:
        return read_hits(config.provider, json.loads(bytes(answer)), top_k)
    except (ValueError, RecursionError) as error:
        raise ProviderError(f"{config.provider} answered no JSON") from error


def _text(value: object) -> str:
    """A field as text that every encoding takes."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""
