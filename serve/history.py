"""Makes a conversation fit the model's context.

Old Results become None first, oldest first, as the tools' text is long and the replies hold what
mattered; then whole turns go, oldest first. Nothing is ever cut inside a section. In the turn being
written, results and then thoughts and commands give way before the question does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

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
) -> tuple[Conversation, list[int]]:
    """The conversation, shrunk until its prompt up to `upto` has at most `max_prompt_tokens`.

    Returns: the conversation, and the ids of that prompt.
    Raises:
        ContextLengthError: the last turn does not fit on its own.
    """

    @cache  # most conversations fit as they are: they are rendered once
    def prompt_ids(candidate: Conversation) -> list[int]:
        return renderer.prompt_ids(candidate, upto, quality)

    def num_tokens(candidate: Conversation) -> int:
        return len(prompt_ids(candidate))

    fitted = _first_fitting(
        _shrunk(conversation), lambda candidate: num_tokens(candidate) <= max_prompt_tokens
    )
    for shrink in (_without_result_bodies, _without_tools):
        if num_tokens(fitted) > max_prompt_tokens:
            last = shrink(fitted.turns[-1])
            fitted = replace(fitted, turns=(*fitted.turns[:-1], last))
    if (length := num_tokens(fitted)) > max_prompt_tokens:
        raise ContextLengthError(
            f"the message takes {length} tokens with its meta-instruction, and {max_prompt_tokens} "
            "fit beside an answer; shorten it"
        )
    return fitted, prompt_ids(fitted)


def _shrunk(conversation: Conversation) -> list[Conversation]:
    """The conversation, then each step of shrinking its history, down to the last turn alone."""
    steps = [conversation]
    turns = list(conversation.turns)
    for index, turn in enumerate(turns[:-1]):
        if turn.results:
            turns[index] = replace(turn, results=())
            steps.append(replace(conversation, turns=tuple(turns)))
    steps += [replace(conversation, turns=tuple(turns[n:])) for n in range(1, len(turns))]
    return steps


def _first_fitting(
    steps: Sequence[Conversation], fits: Callable[[Conversation], bool]
) -> Conversation:
    """The first step that fits, else the last one; each step is shorter than the one before.

    Goes up from the short end in doubling strides, then halves: a long history costs as much as
    the part of it that fits, and not its square.
    """
    good, stride = len(steps) - 1, 1
    bad = good - stride
    while bad >= 0 and fits(steps[bad]):
        good, stride = bad, stride * 2
        bad = good - stride
    bad = max(bad, -1)
    while good - bad > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(steps[middle]) else (good, middle)
    return steps[good]


def _without_result_bodies(turn: Turn) -> Turn:
    """Results that say `No result.`: better than losing what was asked."""
    emptied = tuple(ToolResult(result.command, NO_RESULT, ok=False) for result in turn.results)
    return replace(turn, results=emptied)


def _without_tools(turn: Turn) -> Turn:
    """The question alone, where the model's own thoughts and commands fill the context."""
    return replace(turn, inner_thoughts=None, commands=(), results=())
