"""Search over a bundled corpus: SQLite FTS5 ranks pages, TextRank summarizes each (section 8.2).

Chinese text is cut by rjieba before indexing, since FTS5 knows words by spaces. Pages of the
query's own language come first when scores are close, because words of the other do not match.
"""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources

from moss.config.tools import SearchConfig, ToolsConfig
from moss.errors import ConfigError, DataError
from moss.textrank import summarize, words_of
from moss.tools.base import Reference, Tool, ToolOutput
from moss.types import ToolName

_MAX_QUERY_CHARS = 200
_MAX_QUERY_WORDS = 32
_TITLE_WEIGHT = 2.0
"""BM25 weight of a title word against one of the text."""


@dataclass(frozen=True, slots=True)
class Page:
    """One document of the corpus."""

    id: str
    language: str
    title: str
    text: str


def load_corpus(path: str | None) -> list[Page]:
    """Read a corpus of JSON lines; None is the bundled one.

    Raises:
        ConfigError: the file does not exist.
        DataError: a line is not `{"id", "language", "title", "text"}`; the message names it.
    """
    if path is None:
        content = resources.files("moss").joinpath("data/corpus.jsonl").read_text(encoding="utf-8")
        return _parse_corpus(content, "data/corpus.jsonl")
    try:
        with open(path, encoding="utf-8") as file:
            return _parse_corpus(file.read(), path)
    except FileNotFoundError as error:
        raise ConfigError(f"web_search.corpus {path!r} does not exist") from error


def _parse_corpus(content: str, source: str) -> list[Page]:
    pages: list[Page] = []
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            pages.append(Page(*(str(row[key]) for key in ("id", "language", "title", "text"))))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{source} line {number} is not a page with id, language, title and text: {error!r}"
            ) from error
    return pages


class SearchIndex:
    """An in-memory full-text index; safe to share between threads."""

    def __init__(self, pages: Sequence[Page]) -> None:
        self._pages = list(pages)
        self._lock = threading.Lock()
        self._database = sqlite3.connect(":memory:", check_same_thread=False)
        self._database.execute(
            "CREATE VIRTUAL TABLE page USING fts5(title, text, tokenize='porter unicode61')"
        )
        rows = ((number, _spaced(page.title), _spaced(page.text))
                for number, page in enumerate(self._pages))  # fmt: skip
        self._database.executemany("INSERT INTO page(rowid, title, text) VALUES (?, ?, ?)", rows)

    def find(self, query: str, top_k: int) -> list[Page]:
        """The best `top_k` pages that hold a word of the query, best first."""
        words = words_of(query)[:_MAX_QUERY_WORDS]
        if not words:
            return []
        match = " OR ".join(_quoted(words))
        with self._lock:
            rows = self._database.execute(
                f"SELECT rowid FROM page WHERE page MATCH ? ORDER BY bm25(page, {_TITLE_WEIGHT}, 1)"
                ", rowid LIMIT ?",
                (match, top_k),
            ).fetchall()
        return [self._pages[number] for (number,) in rows]


def _spaced(text: str) -> str:
    return " ".join(words_of(text))


def _quoted(words: Iterable[str]) -> list[str]:
    """Words as FTS5 strings, so that none is read as an operator."""
    return ['"' + re.sub(r'"', '""', word) + '"' for word in dict.fromkeys(words)]


class Search:
    """Search the corpus; the index is built at the first call.

    Raises (constructor):
        ConfigError, DataError: see `load_corpus`.
    """

    name: ToolName = "web_search"

    def __init__(self, config: SearchConfig) -> None:
        self.config = config
        self.timeout_s = config.call_timeout_s
        self._pages = load_corpus(config.corpus)
        self._index: SearchIndex | None = None
        self._lock = threading.Lock()

    async def call(self, argument: str) -> ToolOutput:
        """Summaries of the best pages for the query `argument`, as references."""
        return await asyncio.to_thread(self._search, argument[:_MAX_QUERY_CHARS])

    def _search(self, query: str) -> ToolOutput:
        with self._lock:
            if self._index is None:
                self._index = SearchIndex(self._pages)
        pages = self._index.find(query, self.config.top_k)
        references = tuple(self._reference(page, query) for page in pages)
        if not references:
            return ToolOutput(ok=False, layout="references", reason="no page matches")
        return ToolOutput(ok=True, layout="references", references=references)

    def _reference(self, page: Page, query: str) -> Reference:
        summary = summarize(
            page.text,
            max_sentences=self.config.max_sentences,
            max_chars=self.config.max_summary_chars,
            query=query,
        )
        return Reference(title=page.title, text=summary, source=page.id)

    async def close(self) -> None:
        """Drop the index."""
        with self._lock:
            self._index = None


def build(config: ToolsConfig) -> Tool:
    """Build the search tool of a tools configuration: the corpus, or the web."""
    search = config.web_search
    if search.web is None:
        return Search(search)
    from moss.tools.web_search import WebSearch

    return WebSearch(search, search.web)
