"""Search of the web: a provider's top pages, fetched, read and summarized (paper section 8.2).

A page that cannot be fetched or read is represented by the provider's snippet: the address was
found, and a failure of one page says nothing about the others.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from typing import Final

from moss.config.tools import SearchConfig
from moss.config.web import WebConfig
from moss.errors import ConfigError
from moss.sandbox import require_seccomp
from moss.textrank import summarize
from moss.tools.base import Reference, ToolOutput
from moss.tools.fetching import FetchError, Resolve, checked_url, fetch, resolve_by_system
from moss.tools.page_text import ExtractionError, PageText, extract
from moss.tools.providers import Hit, ProviderError, find_hits
from moss.types import ToolName

KEY_ENV: Final = "MOSS_SEARCH_API_KEY"
_MAX_QUERY_CHARS: Final = 200
_MAX_TITLE_CHARS: Final = 200


class WebSearch:
    """Searches the web through a provider.

    Raises (constructor):
        ConfigError: the provider's key is missing.
        ResourceError: seccomp is missing, without which no page is read.
    """

    name: ToolName = "web_search"

    def __init__(
        self,
        config: SearchConfig,
        web: WebConfig,
        *,
        environment: Mapping[str, str] = os.environ,
        resolve: Resolve = resolve_by_system,
    ) -> None:
        require_seccomp()
        self.config = config
        self.timeout_s = config.call_timeout_s
        self._web = web
        self._resolve = resolve
        self._key = environment.get(KEY_ENV, "")
        if not self._key and web.provider != "searxng":
            raise ConfigError(f"web_search.web.provider={web.provider} needs a key in {KEY_ENV}")

    async def call(self, argument: str) -> ToolOutput:
        """Summaries of the best pages for the query `argument`, as references."""
        query = argument[:_MAX_QUERY_CHARS].strip()
        try:
            hits = await find_hits(self._web, self._key, query, self.config.top_k)
        except ProviderError as error:
            return ToolOutput(ok=False, layout="references", reason=str(error))
        found = await asyncio.gather(*(self._reference(hit, query) for hit in hits))
        references = tuple(page for page in found if page is not None)
        if not references:
            return ToolOutput(ok=False, layout="references", reason="no page matches")
        return ToolOutput(ok=True, layout="references", references=references)

    async def _reference(self, hit: Hit, query: str) -> Reference | None:
        """A page of the web; None where its address is none that a reader may be sent to."""
        try:
            url = checked_url(hit.url, self._web.fetch.ports)
        except FetchError:
            return None
        try:
            page = await self._page(url)
        except (FetchError, ExtractionError) as error:
            logging.getLogger(__name__).debug("a page was not read: %s", error)
            page = PageText(hit.title, hit.snippet)
        summary = await asyncio.to_thread(
            summarize, page.text, max_sentences=self.config.max_sentences,
            max_chars=self.config.max_summary_chars, query=query,
        )  # fmt: skip
        title = (hit.title or page.title)[:_MAX_TITLE_CHARS]
        text = summary or hit.snippet[: self.config.max_summary_chars]
        return Reference(title=title, text=text, source=url) if text else None

    async def _page(self, url: str) -> PageText:
        limits = self._web.fetch
        fetched = await fetch(url, limits, resolve=self._resolve)
        return await extract(
            fetched.body, fetched.content_type, timeout_s=limits.extract_timeout_s,
            memory_bytes=limits.extract_memory_bytes,
        )  # fmt: skip

    async def close(self) -> None:
        """Nothing is held between calls."""
