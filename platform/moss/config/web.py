"""Configuration of searching the web: whose index is asked, and how pages are fetched."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from moss.config.base import Config

ProviderName = Literal["google", "searxng", "brave", "tavily"]


class FetchConfig(Config):
    """Limits of fetching one page."""

    timeout_s: float = Field(5.0, gt=0, le=60)
    """Wall time of one page, redirects and the whole body included."""
    max_bytes: int = Field(1 << 20, ge=1_024)
    """Of one page; the rest is left unread."""
    max_redirects: int = Field(3, ge=0, le=10)
    ports: tuple[int, ...] = (80, 443)
    """Ports that may be connected to."""
    extract_timeout_s: float = Field(3.0, gt=0, le=60)
    """Wall time of finding a page's text."""
    extract_memory_bytes: int = Field(512 << 20, ge=128 << 20)
    """Address space of the process that does it."""


class WebConfig(Config):
    """The web as `web_search` reads it. The provider's key stands in `MOSS_SEARCH_API_KEY`."""

    provider: ProviderName
    endpoint: str | None = None
    """Address of the provider; None is its public one, which SearXNG has not."""
    engine_id: str | None = None
    """Google's `cx`."""
    timeout_s: float = Field(5.0, gt=0, le=60)
    """Wall time of asking the provider."""
    fetch: FetchConfig = FetchConfig()

    @model_validator(mode="after")
    def provider_has_what_it_needs(self) -> Self:
        """Google searches with an engine of one's own, SearXNG is a server of one's own."""
        if self.provider == "google" and not self.engine_id:
            raise ValueError("provider google needs engine_id, the cx of your search engine")
        if self.provider == "searxng" and not self.endpoint:
            raise ValueError("provider searxng needs endpoint, the address of your server")
        return self

    @property
    def call_timeout_s(self) -> float:
        """Longest a caller waits."""
        return self.timeout_s + self.fetch.timeout_s + self.fetch.extract_timeout_s + 2.0
