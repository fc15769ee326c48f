"""Token ids of one section as text that can be shown at once."""

from __future__ import annotations

from collections.abc import Sequence

from moss.chat_rendering import ChatRenderer
from moss.types import Section
from serve.text_stream import REPLACEMENT, num_certain


class SectionStream:
    """Turns growing token ids into growing text.

    Text is held back while its last character is incomplete UTF-8, or while a `<` near the end may
    begin an escaped control string. Header tokens a model puts inside a section are left out.
    """

    def __init__(self, renderer: ChatRenderer, section: Section) -> None:
        self._renderer = renderer
        self._section: Section = section
        self._controls = frozenset(renderer.tokenizer.controls.values())
        self._ids: list[int] = []
        self._shown = ""

    def push(self, ids: Sequence[int]) -> str:
        """Take the next ids; the text that is certain now, possibly none."""
        self._ids += [token for token in ids if token not in self._controls]
        return self._show(self._stable(self._text()))

    def finish(self) -> str:
        """The rest of the text."""
        return self._show(self._text())

    def _text(self) -> str:
        return self._renderer.decode_section(self._ids, self._section)

    def _show(self, text: str) -> str:
        new = text[len(self._shown) :] if text.startswith(self._shown) else ""
        self._shown += new
        return new

    def _stable(self, text: str) -> str:
        text = text.rstrip(REPLACEMENT)
        return text[: num_certain(text)]
