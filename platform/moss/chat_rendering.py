"""Conversations as token ids with a loss mask, and model output back as section text.

A conversation becomes a list of spans, each with a loss flag. Control spans turn into control
tokens by id; the text between two control tokens is encoded as one run, and a token carries loss
when its last character lies in a span that does. So the mask follows characters, not counts of
header tokens, and holds for every tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from moss.chat import (
    END_MARKERS,
    HEADERS,
    Conversation,
    Turn,
    quality_tag,
    section_body,
    unescape,
)
from moss.errors import ChatFormatError
from moss.tokenizer import MossTokenizer
from moss.types import QUALITY_LEVELS, SECTIONS, Section

LossPolicy = Literal["moss", "assistant_only"]


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of rendered text."""

    text: str
    loss: bool
    control: bool = False
    """True where the text is structure; False where somebody wrote it."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """Token ids of a conversation, `T` of them."""

    ids: list[int]
    loss_mask: list[int]
    """(T,) 1 where the token is a training target."""


@dataclass(frozen=True, slots=True)
class ChatRenderer:
    """Renders conversations for one tokenizer.

    Loss policies: `moss` follows the released training (everything but the meta-instruction and
    the Results body); `assistant_only` keeps loss on thoughts, commands and replies alone. The
    quality tag never carries loss: it is a condition, always forced at inference.
    """

    tokenizer: MossTokenizer
    loss: LossPolicy = "assistant_only"

    def render(self, conversation: Conversation) -> Rendered:
        """The whole conversation."""
        return self._encode(self._spans(conversation, conversation.turns))

    def prompt_ids(
        self, conversation: Conversation, upto: Section, quality: int | None = None
    ) -> list[int]:
        """Ids up to and including the header of `upto` in the last turn, where a model goes on.

        Args:
            quality: tag to condition the reply on; only with `upto="moss"`.
        Raises:
            ChatFormatError: no turn to continue, or a quality tag outside the reply.
        """
        if not conversation.turns:
            raise ChatFormatError("a conversation without a turn has no section to continue")
        if quality is not None and upto != "moss":
            raise ChatFormatError(f"a quality tag stands before the reply, not before {upto!r}")
        *earlier, last = conversation.turns
        spans = list(self._spans(conversation, earlier))
        for section in SECTIONS[: SECTIONS.index(upto)]:
            spans.extend(self._section(last, section))
        spans.append(Span(HEADERS[upto], loss=False, control=True))
        if quality is not None:
            spans.append(Span(quality_tag(quality), loss=False, control=True))
        return self._encode(spans).ids

    def tag_ids(self, quality: int) -> list[int]:
        """Tokens of a quality tag where it stands, behind the header of a reply."""
        header = Span(HEADERS["moss"], loss=False, control=True)
        tag = Span(quality_tag(quality), loss=False, control=True)
        return self._encode([header, tag]).ids[len(self._encode([header]).ids) :]

    def bridge_ids(self, turn: Turn, section: Section, upto: Section) -> list[int]:
        """Ids between the end marker of `section`, which a model wrote, and the body of `upto`: the
        sections of `turn` between the two, and the last header."""
        between = SECTIONS[SECTIONS.index(section) + 1 : SECTIONS.index(upto)]
        # Where the end marker is one token with its line break, the model has written both.
        line_break = "" if f"{END_MARKERS[section]}\n" in self.tokenizer.controls else "\n"
        spans = [Span(line_break, loss=False, control=True)] if line_break else []
        for name in between:
            spans.extend(self._section(turn, name))
        spans.append(Span(HEADERS[upto], loss=False, control=True))
        return self._encode(spans).ids

    def end_id(self, section: Section) -> int:
        """Token id that ends a section's body."""
        controls = self.tokenizer.controls
        marker = END_MARKERS[section]
        return controls.get(f"{marker}\n", controls.get(marker, self.tokenizer.eos_id))

    def decode_section(self, ids: Sequence[int], section: Section) -> str:
        """Text a model wrote as one section's body: cut at the end marker, tag off, unescaped."""
        ids = list(ids)
        end = self.end_id(section)
        if end in ids:
            ids = ids[: ids.index(end)]
        text = self.tokenizer.decode(ids)
        if section == "moss":
            for quality in QUALITY_LEVELS:
                text = text.removeprefix(quality_tag(quality))
        return unescape(text.removeprefix(" "))

    def _spans(self, conversation: Conversation, turns: Sequence[Turn]) -> Iterator[Span]:
        yield Span(conversation.meta.text, loss=False)
        for turn in turns:
            for section in SECTIONS:
                yield from self._section(turn, section)

    def _section(self, turn: Turn, section: Section) -> Iterator[Span]:
        everything = self.loss == "moss"
        own_words = section in ("inner_thoughts", "commands", "moss")
        yield Span(HEADERS[section], loss=everything, control=True)
        if section == "moss" and turn.quality is not None:
            yield Span(quality_tag(turn.quality), loss=False, control=True)
        body_loss = own_words or (everything and section == "human")
        yield Span(section_body(turn, section), loss=body_loss)
        yield Span(END_MARKERS[section], loss=own_words or everything, control=True)
        yield Span("\n", loss=everything, control=True)

    def _encode(self, spans: Iterator[Span] | Sequence[Span]) -> Rendered:
        ids: list[int] = []
        mask: list[int] = []
        run: list[Span] = []
        controls = self.tokenizer.controls
        pending = list(spans)
        index = 0
        while index < len(pending):
            span = pending[index]
            joined = span.text + "\n" if _ends_line(pending, index) else ""
            text = joined if joined in controls else span.text
            if span.control and text in controls:
                self._flush(run, ids, mask)
                ids.append(controls[text])
                mask.append(int(span.loss))
                index += 1 + (text == joined)
                continue
            run.append(span)
            index += 1
        self._flush(run, ids, mask)
        return Rendered(ids, mask)

    def _flush(self, run: list[Span], ids: list[int], mask: list[int]) -> None:
        if not run:
            return
        loss_by_character = [span.loss for span in run for _ in span.text]
        token_ids, offsets = self.tokenizer.encode_with_offsets("".join(s.text for s in run))
        ids.extend(token_ids)
        mask.extend(int(loss_by_character[max(end, 1) - 1]) for _, end in offsets)
        run.clear()


def _ends_line(spans: Sequence[Span], index: int) -> bool:
    following = spans[index + 1] if index + 1 < len(spans) else None
    return following is not None and following.control and following.text == "\n"
