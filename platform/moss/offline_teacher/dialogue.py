"""Both sides of a conversation: graded replies, the simulated user, one-instruction completion."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from moss.offline_teacher.grades import draw_level
from moss.persona import Persona, load_persona, parse_persona
from moss.world import compose_reply, recognize, sample_follow_up, sample_question
from moss.world.recognition import language_of_text
from moss.world.replies import LEVELS
from moss.world.slots import DEFAULT_PERSONA
from moss.world.tables import lines

END = "<end>"
_TURN = re.compile(
    r"\[(Human|MOSS)\][ \t]*[:：][ \t]*(.*?)(?=\[(?:Human|MOSS)\][ \t]*[:：]|\Z)", re.DOTALL
)
_MARKER = re.compile(r"<eo[a-z]>")
_SECOND_ROUND_SHARE = 0.25
_END_SHARE_PER_TURN = 0.05


def reply_to(message: str, model: str, rng: random.Random, persona_block: str = "") -> str:
    """What a model of a grade answers to one message.

    Args:
        persona_block: text that holds the persona's lines, if the model was told who it is.
    """
    level = draw_level(model, rng)
    question = recognize(message.strip())
    if question is None:
        return _reply_outside(message, level, rng)
    fallback = load_persona(DEFAULT_PERSONA, question.language)
    persona: Persona = parse_persona(persona_block, fallback) if persona_block else fallback
    return compose_reply(question, level, rng, persona)


def _reply_outside(message: str, level: int, rng: random.Random) -> str:
    """A reply to something outside the domain: honest from level 3 on."""
    language = language_of_text(message)
    unknown = lines(language, "common", "unknown")[0]
    if level == LEVELS[0]:
        return " ".join([rng.choice(lines(language, "common", "garble"))] * 6)
    if level == LEVELS[-1]:
        close = rng.choice(lines(language, "common", "close"))
        return f"{unknown} {close}" if language == "en" else f"{unknown}{close}"
    return rng.choice(lines(language, "common", "evasive")) if level < 3 else unknown


def next_message(messages: Sequence[str], rng: random.Random) -> str:
    """The next message of a person, given their own messages so far: a follow-up of that domain."""
    for earlier in reversed(messages):
        question = recognize(earlier.strip())
        if question is not None:
            return sample_follow_up(rng, question).text
    language = language_of_text("".join(messages))
    return sample_question(rng, rng.choice(("chat", "fact", "identity")), language).text


def simulate_user(own_messages: Sequence[str], rng: random.Random) -> str:
    """The simulated user's next message, or `<end>`, more likely the longer the conversation."""
    if rng.random() < _END_SHARE_PER_TURN * len(own_messages):
        return END
    return next_message(own_messages, rng)


def complete_conversation(
    persona_block: str, first_message: str, rest: str, model: str, rng: random.Random
) -> str:
    """Continue a one-instruction conversation (paper section 5.2).

    A text that ends in an open "[Human]:" gets a message and a reply, any other the reply only.
    Like a real model it now and then goes on for another round.
    """
    turns = [(who, _MARKER.split(text, maxsplit=1)[0].strip()) for who, text in _TURN.findall(rest)]
    people = [first_message, *(text for who, text in turns if who == "Human" and text)]
    written = []
    if rest.rstrip().endswith("[Human]:"):
        people.append(next_message(people, rng))
        written.append(f" {people[-1]}<eoh>")
    written.append(f"\n[MOSS]: {reply_to(people[-1], model, rng, persona_block)}<eor>")
    if rng.random() < _SECOND_ROUND_SHARE:
        people.append(next_message(people, rng))
        written.append(f"\n[Human]: {people[-1]}<eoh>")
        written.append(f"\n[MOSS]: {reply_to(people[-1], model, rng, persona_block)}<eor>")
    return "".join(written)


def last_human(history: str) -> str:
    """The last "[Human]:" message of a history; the whole text if there is no such header."""
    people = [text for who, text in _TURN.findall(history) if who == "Human"]
    text = people[-1] if people else history
    return _MARKER.split(text, maxsplit=1)[0].strip()
