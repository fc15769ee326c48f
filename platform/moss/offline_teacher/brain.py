"""From a request to an answer: find out what is asked, then let the right part answer."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from moss.offline_teacher import dialogue, extension, ratings, tool_steps
from moss.offline_teacher.grades import seeded
from moss.offline_teacher.judging import judge_pair
from moss.templates import Template, load_template
from moss.types import LANGUAGES, Language
from moss.world.recognition import language_of_text

FinishReason = Literal["stop", "length"]
Slots = Mapping[str, str]

_TOKEN = re.compile(r"[\u3400-\u9fff]|[^\W_]+|[^\w\s]|_")


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of a chat request."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Answer:
    """One choice of a response."""

    text: str
    finish_reason: FinishReason
    num_tokens: int
    """Words, Chinese characters and punctuation marks, a fair stand-in for tokens."""


@dataclass(frozen=True, slots=True)
class _Request:
    """A recognized prompt: the template's slots and what stands after the template."""

    slots: Slots
    rest: str
    language: Language
    model: str
    rng: random.Random


_Answerer = Callable[[_Request], tuple[str, bool]]


def count_tokens(text: str) -> int:
    """Words, Chinese characters and punctuation marks."""
    return len(_TOKEN.findall(text))


def answer_chat(
    model: str,
    messages: Sequence[ChatMessage],
    *,
    seed: int = 0,
    index: int = 0,
    max_tokens: int | None = None,
    stop: Sequence[str] = (),
) -> Answer:
    """Answer a chat request; the same request always gets the same answer.

    Args:
        index: which of several choices; each is its own draw.
        max_tokens: bound on `Answer.num_tokens`; a longer answer is cut (finish reason "length").
        stop: texts before which the answer ends.
    """
    told = [f"{message.role}: {message.content}" for message in messages]
    rng = seeded(model, seed, index, *told)
    text, is_cut = _chat(model, messages, rng)
    return _bounded(text.strip(), is_cut, max_tokens, stop)


def answer_completion(
    model: str,
    prompt: str,
    *,
    seed: int = 0,
    index: int = 0,
    max_tokens: int | None = None,
    stop: Sequence[str] = (),
) -> Answer:
    """Continue a text; see `answer_chat`."""
    rng = seeded(model, seed, index, prompt)
    text, is_cut = _prompted(model, prompt, rng)
    return _bounded(text, is_cut, max_tokens, stop)


def _chat(model: str, messages: Sequence[ChatMessage], rng: random.Random) -> tuple[str, bool]:
    system = "\n".join(message.content for message in messages if message.role == "system")
    users = [message.content for message in messages if message.role == "user"]
    if system:
        for language in LANGUAGES:
            if load_template("user_instruction", language).extract(system) is not None:
                own = [item.content for item in messages if item.role == "assistant"]
                return dialogue.simulate_user(own, rng), False
        return dialogue.reply_to(users[-1] if users else "", model, rng, system), False
    if len(users) == 1 and len(messages) == 1:
        return _prompted(model, users[0], rng)
    return dialogue.reply_to(users[-1] if users else "", model, rng), False


def _prompted(model: str, prompt: str, rng: random.Random) -> tuple[str, bool]:
    for template, answerer in _families():
        found = template.extract(prompt)
        if found is not None:
            return answerer(_Request(found[0], found[1], template.language, model, rng))
    return dialogue.reply_to(dialogue.last_human(prompt), model, rng), False


def _bounded(text: str, is_cut: bool, max_tokens: int | None, stop: Sequence[str]) -> Answer:
    reason: FinishReason = "length" if is_cut else "stop"
    ends = [position for item in stop if item and (position := text.find(item)) >= 0]
    if ends:
        text, reason = text[: min(ends)], "stop"
    if max_tokens is not None:
        pieces = list(_TOKEN.finditer(text))
        if len(pieces) > max_tokens:
            text, reason = text[: pieces[max_tokens - 1].end()] if max_tokens else "", "length"
    return Answer(text, reason, count_tokens(text))


def _extend(request: _Request) -> tuple[str, bool]:
    slots = request.slots
    return extension.extend_prompts(slots["examples"], _count(slots), request.language, request.rng)


def _queries(request: _Request) -> tuple[str, bool]:
    slots = request.slots
    return extension.extend_tool_queries(
        slots["tool"], slots["examples"], _count(slots), request.language, request.rng
    )


def _count(slots: Slots) -> int:
    digits = re.sub(r"\D", "", slots["count"])
    return min(max(int(digits or 8), 1), 50)


def _converse(request: _Request) -> tuple[str, bool]:
    slots = request.slots
    text = dialogue.complete_conversation(
        slots["persona"], slots["first_message"], request.rest, request.model, request.rng
    )
    return text, False


def _plan(request: _Request) -> tuple[str, bool]:
    slots = request.slots
    language = language_of_text(slots["query"])
    return tool_steps.write_plan(slots["switches"], slots["query"], language, request.rng), False


def _tool_reply(request: _Request) -> tuple[str, bool]:
    slots = request.slots
    language = language_of_text(slots["query"])
    return (
        tool_steps.write_reply(slots["query"], slots["results"], language, request.rng),
        False,
    )


def _follow_up(request: _Request) -> tuple[str, bool]:
    return (
        tool_steps.write_follow_up(request.slots["history"], request.language, request.rng),
        False,
    )


def _classify(request: _Request) -> tuple[str, bool]:
    return ratings.classify(request.slots["classes"], request.slots["prompt"]), False


def _rate(request: _Request) -> tuple[str, bool]:
    return str(ratings.rate_difficulty(request.slots["prompt"])), False


def _judge(request: _Request) -> tuple[str, bool]:
    slots = request.slots
    prompt = dialogue.last_human(slots["conversation"])
    return judge_pair(prompt, slots["response_a"], slots["response_b"]), False


_ANSWERERS: Final[dict[str, _Answerer]] = {
    "judge_pair": _judge,
    "complete_conversation": _converse,
    "extend_prompts": _extend,
    "tool_queries": _queries,
    "tool_plan": _plan,
    "tool_reply": _tool_reply,
    "tool_follow_up": _follow_up,
    "classify_use_case": _classify,
    "rate_difficulty": _rate,
}
"""Prompt families by the template that asks them."""


def _families() -> list[tuple[Template, _Answerer]]:
    return [
        (load_template(name, language), answerer)
        for name, answerer in _ANSWERERS.items()
        for language in LANGUAGES
    ]
