"""Makes a conversation fit the model's context (requirements 5.2, row 29).

Old Results become None first, oldest first, as the tools' text is long and the replies hold what
mattered; then whole turns go, oldest first. Nothing is ever cut inside a section. In the turn being
written, results and then thoughts and commands give way before the question does.
"""

from __future__ import annotations

from dataclasses import replace

from moss.chat import NO_RESULT, Conversation, ToolResult, Turn
from moss.chat_rendering import ChatRenderer
from moss.errors import DataError
from moss.types import Section


class ContextLengthError(DataError):
    """The last turn alone is longer than the model's context."""


def fit_history(
    renderer: ChatRenderer,
    conversation: Conversation,
    upto: Section,
    *,
    max_prompt_tokens: int,
    quality: int | None = None,
) -> Conversation:
    """The conversation, shrunk until its prompt up to `upto` has at most `max_prompt_tokens`.

    Raises:
        ContextLengthError: the last turn does not fit on its own.
    """

    def num_tokens(candidate: Conversation) -> int:
        return len(renderer.prompt_ids(candidate, upto, quality))

    turns = list(conversation.turns)
    fitted = conversation
    for index, turn in enumerate(turns[:-1]):
        if num_tokens(fitted) <= max_prompt_tokens:
            return fitted
        if turn.results:
            turns[index] = replace(turn, results=())
            fitted = replace(conversation, turns=tuple(turns))
    while num_tokens(fitted) > max_prompt_tokens and len(fitted.turns) > 1:
        fitted = replace(fitted, turns=fitted.turns[1:])
    for shrink in (_without_result_bodies, _without_tools):
        if num_tokens(fitted) > max_prompt_tokens:
            last = shrink(fitted.turns[-1])
            fitted = replace(fitted, turns=(*fitted.turns[:-1], last))
    if (length := num_tokens(fitted)) > max_prompt_tokens:
        raise ContextLengthError(
            f"the message takes {length} tokens with its meta-instruction, and {max_prompt_tokens} "
            "fit beside an answer; shorten it"
        )
    return fitted


def _without_result_bodies(turn: Turn) -> Turn:
    """Results that say `No result.`: better than losing what was asked."""
    emptied = tuple(ToolResult(result.command, NO_RESULT, ok=False) for result in turn.results)
    return replace(turn, results=emptied)


def _without_tools(turn: Turn) -> Turn:
    """The question alone, where the model's own thoughts and commands fill the context."""
    return replace(turn, inner_thoughts=None, commands=(), results=())
