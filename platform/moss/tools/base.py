"""What a tool is, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from moss.chat import NO_RESULT, Command, ToolResult
from moss.types import ToolName

Layout = Literal["quoted", "plain", "references"]
"""How a result body looks: `'10'`, `x = 5`, or numbered lines `<|1|>: 'text'`."""


@dataclass(frozen=True, slots=True)
class Reference:
    """One page a search found; its number is given when the results of a turn are laid out."""

    title: str
    text: str
    """Summary of the page, at most the configured number of characters."""
    source: str
    """Row id in the corpus, or the page's address."""


@dataclass(frozen=True, slots=True)
class ToolOutput:
    """Answer of one tool call, before layout."""

    ok: bool
    layout: Layout
    text: str = ""
    """Result where the layout is quoted or plain."""
    references: tuple[Reference, ...] = ()
    images: tuple[str, ...] = ()
    """Ids under which the service hands images out."""
    reason: str = ""
    """Why there is no result; for logs and rows, the model never sees it."""
    flags: tuple[str, ...] = ()
    """Remarks for the caller, such as `prompt_not_english`."""

    def body(self, first_reference: int = 1) -> str:
        """The text after `=>` in the Results section, as in the released data.

        Args:
            first_reference: number of the first reference; numbering goes on over one turn.
        """
        if self.layout == "quoted":
            return repr(self.text if self.ok else NO_RESULT)
        if not self.ok:
            return NO_RESULT
        if self.layout == "plain":
            return self.text
        numbered = enumerate(self.references, start=first_reference)
        return "\n".join(f"<|{number}|>: {page.text!r}" for number, page in numbered)


class Tool(Protocol):
    """A callable service; `call` never raises for what the model wrote."""

    name: ToolName
    timeout_s: float
    """Seconds after which the caller gives up on one call."""

    async def call(self, argument: str) -> ToolOutput:
        """Run one call; a failure is `ToolOutput(ok=False, reason=...)`."""
        ...

    async def close(self) -> None:
        """End workers and free what the tool holds; calling it twice is fine."""
        ...


@dataclass(frozen=True, slots=True)
class FinishedCall:
    """One command, its output, and the result as the model reads it."""

    command: Command
    output: ToolOutput
    result: ToolResult
    first_reference: int
    """Number of the output's first reference in this turn."""
    seconds: float
