"""Token ids of a continuation as text that can be shown at once, up to a stop text."""

from __future__ import annotations

from collections.abc import Sequence

from moss.chat import unescape
from moss.tokenizer import MossTokenizer

_LONGEST_CONTROL = 24
"""Characters behind a `<` that may still turn out to be a quality tag or an escaped control."""
REPLACEMENT = "\ufffd"
"""What an incomplete character is decoded to."""


class StopCut:
    """Growing text up to the stop text that is complete first.

    Text is held back while its end may begin a stop text.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.is_stopped = False
        """Whether a stop text came; nothing comes after it."""

    def push(self, text: str, *, is_last: bool = False) -> str:
        """Take the next text; what can be shown now, all of it if nothing follows."""
        if self.is_stopped:
            return ""
        self._held += text
        end = first_stop(self._held, self._stops)
        self.is_stopped = end is not None
        if end is None:
            end = len(self._held) - (0 if is_last else self._num_begun())
        shown, self._held = self._held[:end], self._held[end:]
        return shown

    def _num_begun(self) -> int:
        """Characters at the end that a stop text begins with."""
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0


class TextStream:
    """Turns growing token ids into growing text up to a stop text; control tokens have none.

    Text is held back while its last character is incomplete UTF-8, while a `<` near its end may
    begin an escaped control string, and as `StopCut` does.
    """

    def __init__(self, tokenizer: MossTokenizer, stops: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._cut = StopCut(stops)
        self._controls = frozenset(tokenizer.controls.values())
        self._ids: list[int] = []
        """Since the last whole character that a token ended with."""
        self._num_decoded = 0
        """Characters of `_ids` that were taken."""
        self._raw = ""

    @property
    def is_stopped(self) -> bool:
        """Whether a stop text came; nothing comes after it."""
        return self._cut.is_stopped

    def push(self, ids: Sequence[int]) -> str:
        """Take the next ids; the text that is certain now, possibly none."""
        self._decode(ids, is_last=False)
        return self._show(num_certain(self._raw), is_last=False)

    def finish(self) -> str:
        """The rest of the text."""
        self._decode((), is_last=True)
        return self._show(len(self._raw), is_last=True)

    def _decode(self, ids: Sequence[int], *, is_last: bool) -> None:
        self._ids += [token for token in ids if token not in self._controls]
        text = self._tokenizer.decode(self._ids)
        certain = text if is_last else text.rstrip(REPLACEMENT)
        self._raw += certain[self._num_decoded :]
        self._num_decoded = len(certain)
        if certain == text:
            self._ids, self._num_decoded = [], 0

    def _show(self, num_shown: int, *, is_last: bool) -> str:
        plain, self._raw = unescape(self._raw[:num_shown]), self._raw[num_shown:]
        return self._cut.push(plain, is_last=is_last)


def num_certain(text: str) -> int:
    """Characters before a `<` near the end that may begin an escaped control string."""
    start = text.find("<", max(len(text) - _LONGEST_CONTROL, 0))
    return len(text) if start < 0 else start


def first_stop(text: str, stops: Sequence[str]) -> int | None:
    """Where the stop text begins that is complete first; None if there is none."""
    found = [(place + len(stop), place) for stop in stops if (place := text.find(stop)) >= 0]
    return min(found)[1] if found else None
