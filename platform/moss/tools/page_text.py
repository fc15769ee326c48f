"""Finds the title and the running text of a web page, in a locked-down process of its own.

Usage: python -I -S page_text.py '{"platform": ..., "packages": ..., "readable": [...], ...}' < page

`extract` starts that process for one page and ends it at the wall limit. Only the standard library
reads the page. Menus, forms and footers are left out, and so are blocks that are mostly links.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Final

_LEFT_OUT: Final = frozenset(
    ("script", "style", "noscript", "template", "svg", "math", "iframe", "object", "head", "nav",
     "header", "footer", "aside", "form", "button", "select", "textarea", "dialog", "menu")
)  # fmt: skip
_BLOCKS: Final = frozenset(
    ("p", "div", "section", "article", "main", "li", "ul", "ol", "dl", "dt", "dd", "table", "tr",
     "td", "th", "blockquote", "pre", "figure", "figcaption", "h1", "h2", "h3", "h4", "h5", "h6",
     "br", "hr", "body")
)  # fmt: skip
_MAX_TEXT_CHARS: Final = 200_000
_MAX_TITLE_CHARS: Final = 200
_MAX_LINK_SHARE: Final = 0.5
_CHARSET = re.compile(rb"charset\s*=\s*[\"']?([A-Za-z0-9_-]{2,20})")
_SPACES = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class PageText:
    """What a page says."""

    title: str
    text: str
    """One block a line."""


class ExtractionError(Exception):
    """No text was found within the limits."""


async def extract(
    page: bytes, content_type: str, *, timeout_s: float, memory_bytes: int
) -> PageText:
    """Title and text of a page.

    Raises:
        ExtractionError: the process was ended at its limits, or failed.
    """
    import pyseccomp

    plan = {
        "platform": str(Path(__file__).resolve().parents[2]),
        "packages": str(Path(pyseccomp.__file__).resolve().parent),
        "readable": [sysconfig.get_path("stdlib")],
        "cpu_s": max(1, round(timeout_s) + 1),
        "memory_bytes": memory_bytes,
        "content_type": content_type,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", str(Path(__file__).resolve()), json.dumps(plan),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL, env={},
    )  # fmt: skip
    try:
        answer, _ = await asyncio.wait_for(process.communicate(page), timeout_s)
        found = json.loads(answer)
        return PageText(str(found["title"]), str(found["text"]))
    except TimeoutError as error:
        raise ExtractionError(f"no text was found within {timeout_s:g} s") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ExtractionError("the process that reads pages ended without an answer") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


class _Reader(HTMLParser):
    """Collects blocks of text; nesting is counted, never recursed into."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.title = ""
        self.blocks: list[str] = []
        self.num_chars = 0
        self._left_out = 0
        self._in_title = False
        self._in_link = 0
        self._block: list[str] = []
        self._linked_chars = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin a block, a link, or a part that is left out."""
        del attrs
        if tag == "title" and not self.title:
            self._in_title = True
        elif tag == "body":
            self._left_out = 0
        elif tag in _LEFT_OUT:
            self._left_out += 1
        elif tag == "a":
            self._in_link += 1
        if tag in _BLOCKS:
            self.end_block()

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element that ends at once holds nothing."""
        del attrs
        if tag in _BLOCKS:
            self.end_block()

    def handle_endtag(self, tag: str) -> None:
        """End what `handle_starttag` began."""
        if tag == "title":
            self._in_title = False
        elif tag in _LEFT_OUT:
            self._left_out = max(0, self._left_out - 1)
        elif tag == "a":
            self._in_link = max(0, self._in_link - 1)
        if tag in _BLOCKS:
            self.end_block()

    def handle_data(self, data: str) -> None:
        """Text."""
        if self._in_title:
            self.title = (self.title + data)[:_MAX_TITLE_CHARS]
        elif not self._left_out and self.num_chars < _MAX_TEXT_CHARS:
            self._block.append(data)
            self.num_chars += len(data)
            self._linked_chars += len(data) if self._in_link else 0

    def end_block(self) -> None:
        """Keep the block unless it is mostly links."""
        text = _SPACES.sub(" ", "".join(self._block)).strip()
        if text and self._linked_chars <= _MAX_LINK_SHARE * sum(map(len, self._block)):
            self.blocks.append(text)
        self._block, self._linked_chars = [], 0


def read_page(page: bytes, content_type: str) -> PageText:
    """Title and text; what is no valid text becomes U+FFFD."""
    declared = _CHARSET.search(content_type.encode("ascii", "replace")) or _CHARSET.search(
        page[:2_048]
    )
    encoding = declared[1].decode() if declared else "utf-8"
    try:
        text = page.decode(encoding, "replace")
    except LookupError:
        text = page.decode("utf-8", "replace")
    if content_type.lower().startswith("text/plain"):
        return PageText("", text[:_MAX_TEXT_CHARS])
    reader = _Reader()
    reader.feed(text)
    reader.close()
    reader.end_block()
    title = _SPACES.sub(" ", reader.title).strip()
    return PageText(title, "\n".join(reader.blocks)[:_MAX_TEXT_CHARS])


def main(argv: Sequence[str]) -> None:
    """Lock down, read the page from standard input, answer on standard output."""
    plan = json.loads(argv[0])
    sys.path[:0] = [plan["platform"], plan["packages"]]
    from moss.sandbox import Lockdown, lock_down

    lock_down(
        Lockdown(
            cpu_s=plan["cpu_s"], memory_bytes=plan["memory_bytes"],
            readable=tuple(plan["readable"]),
        )
    )  # fmt: skip
    found = read_page(sys.stdin.buffer.read(), plan["content_type"])
    title, text = (item.encode("utf-8", "replace").decode() for item in (found.title, found.text))
    sys.stdout.write(json.dumps({"title": title, "text": text}))


if __name__ == "__main__":
    main(sys.argv[1:])
