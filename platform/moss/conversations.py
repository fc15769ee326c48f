"""Complete a prompt to a conversation, by the two recipes of the paper.

*One instruction* (section 5.2): one text describes both sides; a completion model continues it.
Round k+1 sends what round k sent, plus its response, plus an open "[Human]:".

*Two instructions* (section 6): the assistant and a simulated user each have their own; neither sees
the other's, and the simulator reads the conversation with the roles swapped.

End markers: the paper shows three in one example; the prompt uses `<eoh>` after a person and
`<eor>` after MOSS, the parser takes any `<eo?>`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from moss.chat import Conversation, Turn
from moss.config.synthesis import SamplingConfig
from moss.errors import DataError, TeacherResponseError
from moss.meta_instruction import MetaInstruction
from moss.persona import load_persona
from moss.recipes import Calls, Row, Sampling, text_of
from moss.refusals import is_refusal
from moss.teacher import Message
from moss.templates import Template, load_template
from moss.types import Language

END_OF_CHAT = "<end>"
"""What the simulated user writes when it has nothing more to say."""

_END_MARKER = re.compile(r"<eo[a-z]>")
_LAST_MARKERS = re.compile(rf"(?:\s*{_END_MARKER.pattern})+\s*\Z")
_HUMAN = re.compile(r"[\[【［]Human[\]】］][ \t]*[:：]", re.IGNORECASE)
_MOSS = re.compile(r"[\[【［]MOSS[\]】］][ \t]*[:：]", re.IGNORECASE)
_OPENS = r"(?:(?<![^\n])|(?<=<eo[a-z]>))[ \t]*"
"""Where a label is one: at the start of a line or right behind an end marker."""
_HUMAN_LABEL = re.compile(_OPENS + _HUMAN.pattern, re.IGNORECASE)
_MOSS_LABEL = re.compile(_OPENS + _MOSS.pattern, re.IGNORECASE)
_TURN_END = re.compile(
    f"{_END_MARKER.pattern}|{_HUMAN_LABEL.pattern}|{_MOSS_LABEL.pattern}", re.IGNORECASE
)
_STOPS = ("[Human]:", "<eor>")
MAX_REPLY_CHARACTERS = 20_000


@dataclass(frozen=True, slots=True)
class Exchange:
    """One human message and the reply to it."""

    human: str
    moss: str


def parse_reply(completion: str) -> str:
    """The next MOSS reply in a completion; what follows it is dropped, as is a preface before it.

    Raises:
        TeacherResponseError: there is none.
    """
    text = completion.lstrip()
    label = _MOSS_LABEL.search(text)
    end = re.search(f"{_END_MARKER.pattern}|{_HUMAN_LABEL.pattern}", text, re.IGNORECASE)
    if label and (end is None or label.start() <= end.start()):
        text = _without_label(text[label.start() :], _MOSS)
    reply = _TURN_END.split(text, maxsplit=1)[0].strip()
    if not reply:
        raise TeacherResponseError(f"no reply of MOSS in the completion {completion[:120]!r}")
    return _checked(reply)


def parse_exchange(completion: str) -> Exchange:
    """Human message and reply in a completion that continues an open "[Human]:".

    Raises:
        TeacherResponseError: one of the two is missing, or the human speaks twice.
    """
    text = _without_label(completion, _HUMAN)
    label = _MOSS_LABEL.search(text) or _MOSS.search(text)
    human = _LAST_MARKERS.sub("", text[: label.start()]).strip() if label else ""
    if label is None or not human:
        raise TeacherResponseError(
            f"expected a message, then [MOSS]: and a reply, got {completion[:120]!r}"
        )
    if _HUMAN_LABEL.search(human):
        raise TeacherResponseError(f"the human speaks twice in a row: {completion[:120]!r}")
    return Exchange(human, parse_reply(f"[MOSS]:{text[label.end() :]}"))


def _without_label(text: str, label: re.Pattern[str]) -> str:
    """The text less its leading labels; teachers repeat them."""
    text = text.lstrip()
    while found := label.match(text):
        text = text[found.end() :].lstrip()
    return text


@dataclass(frozen=True, slots=True)
class OneInstruction:
    """Recipe of section 5.2. Reads `prompt`, `language`, `num_turns`, `grade_model`."""

    persona: str
    meta_version: str
    sampling: SamplingConfig
    step: str = "converse"

    async def run(self, row: Row, calls: Calls) -> Row:
        """Add `conversation`; one call per turn."""
        first = text_of(row, "prompt")
        template = load_template("complete_conversation", language_of(row))
        text = template.render(
            persona=load_persona(self.persona, language_of(row)).block(), first_message=first
        )
        sampling = Sampling(self.sampling, stop=_STOPS)
        model = text_of(row, "grade_model")
        answer = await calls.complete(
            model, text, sampling, step=f"{self.step}-1", template=template
        )
        exchanges = [Exchange(first, parse_reply(answer.text))]
        for turn in range(2, num_turns_of(row) + 1):
            text = f"{text}{answer.text}<eor>\n[Human]:"
            answer = await calls.complete(
                model, text, sampling, step=f"{self.step}-{turn}", template=template
            )
            exchanges.append(parse_exchange(answer.text))
        return conversation_columns(exchanges, self.meta_version)


@dataclass(frozen=True, slots=True)
class TwoInstructions:
    """Recipe of section 6. Reads `prompt`, `language`, `category`, `num_turns`, `grade_model`."""

    persona: str
    meta_version: str
    user_model: str
    sampling: SamplingConfig
    step: str = "converse"

    async def run(self, row: Row, calls: Calls) -> Row:
        """Add `conversation`; two calls per turn, less the first message."""
        language, model = language_of(row), text_of(row, "grade_model")
        exchanges: list[Exchange] = []
        human = text_of(row, "prompt")
        for turn in range(1, num_turns_of(row) + 1):
            if turn > 1:
                answer = await calls.chat(
                    self.user_model,
                    simulator_messages(exchanges, language, topic=text_of(row, "category")),
                    Sampling(self.sampling),
                    step=f"user-{turn}",
                    template=simulator_template(language),
                )
                message = parse_user_message(answer.text)
                if message is None:
                    break
                human = message
            answer = await calls.chat(
                model,
                assistant_messages(exchanges, human, language, persona=self.persona),
                Sampling(self.sampling),
                step=f"{self.step}-{turn}",
                template=assistant_template(language),
            )
            exchanges.append(Exchange(human, parse_chat_reply(answer.text)))
        return conversation_columns(exchanges, self.meta_version)


def assistant_template(language: Language) -> Template:
    """The assistant's instruction."""
    return load_template("assistant_instruction", language)


def simulator_template(language: Language) -> Template:
    """The simulated user's instruction."""
    return load_template("user_instruction", language)


def assistant_messages(
    exchanges: Sequence[Exchange], human: str, language: Language, *, persona: str
) -> list[Message]:
    """What the assistant's model sees: its instruction, the history, the open message."""
    system = assistant_template(language).render(persona=load_persona(persona, language).block())
    messages = [Message("system", system)]
    for exchange in exchanges:
        messages += [Message("user", exchange.human), Message("assistant", exchange.moss)]
    return [*messages, Message("user", human)]


def simulator_messages(
    exchanges: Sequence[Exchange], language: Language, *, topic: str
) -> list[Message]:
    """What the simulated user's model sees: its own instruction and the history, roles swapped."""
    system = simulator_template(language).render(topic=topic)
    messages = [Message("system", system)]
    for exchange in exchanges:
        messages += [Message("assistant", exchange.human), Message("user", exchange.moss)]
    return messages


def parse_user_message(text: str) -> str | None:
    """The simulated user's message; None when the user has nothing more to say.

    Markers and labels inside the message are its text; only those around it are taken off.

    Raises:
        TeacherResponseError: the simulator answered as the assistant, or refused to play.
    """
    message = _without_label(text, _HUMAN)
    if _MOSS.match(message):
        raise TeacherResponseError(f"the simulated user spoke as MOSS: {text[:120]!r}")
    message = _LAST_MARKERS.sub("", _MOSS_LABEL.split(message, maxsplit=1)[0]).strip()
    if not message or message.startswith(END_OF_CHAT) or message.endswith(END_OF_CHAT):
        return None
    if is_refusal(message):
        raise TeacherResponseError(f"the simulated user refused to play: {text[:120]!r}")
    return _checked(message)


def parse_chat_reply(text: str) -> str:
    """A chat model's reply: its text as it stands, markers included.

    One that writes labels as a completion does is read as such: the label is taken off, and what
    it wrote for the human after its reply.

    Raises:
        TeacherResponseError: empty or far beyond one turn.
    """
    stripped = text.strip()
    if _MOSS.match(stripped):
        reply = _HUMAN_LABEL.split(_without_label(stripped, _MOSS), maxsplit=1)[0]
        stripped = _LAST_MARKERS.sub("", reply).strip()
    return _checked(stripped)


def _checked(reply: str) -> str:
    if not reply or len(reply) > MAX_REPLY_CHARACTERS:
        raise TeacherResponseError(f"a reply of {len(reply)} characters is not one turn")
    return reply


def conversation_columns(exchanges: Sequence[Exchange], meta_version: str) -> Row:
    """`conversation` and the realized `num_turns`; text as written, which rendering escapes."""
    turns = tuple(Turn(human=exchange.human, moss=exchange.moss) for exchange in exchanges)
    conversation = Conversation(MetaInstruction(meta_version), turns)
    return {"conversation": conversation.to_json(), "num_turns": len(turns)}


def language_of(row: Row) -> Language:
    """The row's language."""
    language = text_of(row, "language")
    if language not in ("en", "zh"):
        raise DataError(f"row {row.get('id')!r}: language {language!r} is not en or zh")
    return cast(Language, language)


def num_turns_of(row: Row) -> int:
    """The number of turns the row asks for."""
    turns = row.get("num_turns")
    if not isinstance(turns, int):
        raise DataError(f"row {row.get('id')!r}: num_turns is {turns!r}, expected a number")
    return turns
