"""Draw new questions from the domain: numbers, rows and phrasings combine."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Literal

from moss.types import Language
from moss.world.question import Kind, Question
from moss.world.slots import FIELDS, answer_of, fill, phrase_key
from moss.world.tables import Fact, facts, lines, tables

FactPool = Literal["asked", "held_out", "any"]
"""Facts that users and teachers ask about, those kept for evaluation, or both."""

_OPENER_SHARE = 0.35
_CLOSER_SHARE = 0.15
_IDENTITY_FACTOR = 2
"""Questions about the assistant itself are few, so greetings and remarks vary them more."""
_TRAITS = (
    "name",
    "creator",
    "birthplace",
    "birthday",
    "languages",
    "abilities",
    "limits",
    "nature",
)


def sample_question(
    rng: random.Random, kind: Kind, language: Language, *, pool: FactPool = "asked"
) -> Question:
    """A random question of one kind, sometimes with a greeting before or a remark after it.

    Args:
        pool: which facts a question about a fact may ask for.
    """
    return question_from(kind, _sample_payload(rng, kind, pool), language, rng)


def question_from(
    kind: Kind, payload: Mapping[str, str], language: Language, rng: random.Random
) -> Question:
    """A question about a given payload in a random phrasing."""
    slots = fill(kind, payload, language)
    ask = rng.choice(lines(language, kind, "ask", phrase_key(kind, payload)))
    text = _sentence_case(ask.format_map(slots), kind)
    factor = _IDENTITY_FACTOR if kind == "identity" else 1
    if rng.random() < factor * _OPENER_SHARE:
        text = rng.choice(lines(language, "common", "openers")) + text
    if rng.random() < factor * _CLOSER_SHARE:
        text += rng.choice(lines(language, "common", "closers"))
    return Question(text, kind, language, answer_of(kind, payload, language, slots), dict(payload))


def sample_follow_up(rng: random.Random, previous: Question) -> Question:
    """A further question of the same kind that begins like an answer to a reply."""
    payload = _sample_payload(rng, previous.kind)
    if previous.kind == "fact":
        payload = _related_fact(rng, previous.payload)
    follow = question_from(previous.kind, payload, previous.language, rng)
    bare = _without_opener(follow)
    start = rng.choice(lines(previous.language, "common", "follow_ups"))
    return Question(start + bare, follow.kind, follow.language, follow.answer, follow.payload)


def _without_opener(question: Question) -> str:
    for opener in lines(question.language, "common", "openers"):
        if question.text.startswith(opener):
            return question.text[len(opener) :]
    return question.text


def _related_fact(rng: random.Random, payload: Mapping[str, str]) -> dict[str, str]:
    """Another fact: of the same entity or of the same attribute."""
    this = facts()[payload["fact"]]
    related = [
        fact
        for fact in _facts_in("asked")
        if fact.id != this.id and (fact.entity == this.entity or fact.attribute == this.attribute)
    ]
    fact = rng.choice(related)
    return {"fact": fact.id, "attribute": fact.attribute}


def _facts_in(pool: FactPool) -> list[Fact]:
    return [
        fact
        for fact in facts().values()
        if pool == "any" or fact.is_held_out == (pool == "held_out")
    ]


def _sample_payload(rng: random.Random, kind: Kind, pool: FactPool = "asked") -> dict[str, str]:
    if kind == "arithmetic":
        return {"expression": sample_expression(rng)}
    if kind == "equation":
        return {"equation": sample_equation(rng)}
    if kind == "fact":
        fact = rng.choice(_facts_in(pool))
        return {"fact": fact.id, "attribute": fact.attribute}
    if kind == "identity":
        return {"trait": rng.choice(_TRAITS)}
    payload = {name: rng.choice(list(tables()[name].rows)) for name in FIELDS[kind]}
    if kind == "image" and rng.random() < 0.4:
        payload["scene"] = ""
    if kind == "code":
        payload["n"] = str(rng.randint(2, 99))
    return payload


def sample_expression(rng: random.Random) -> str:
    """Two or three whole numbers, mostly of two digits, with + - *; half of them products."""
    first, second = rng.randint(0, 99), rng.randint(0, 99)
    draw = rng.random()
    if draw < 0.05:
        return f"{rng.randint(100, 999)}{rng.choice('+-')}{second}"
    operator = rng.choice("+-**")
    if operator == "-":
        first, second = max(first, second), min(first, second)
    expression = f"{first}{operator}{second}"
    if draw < 0.30:
        return f"{expression}{rng.choice('+-+*')}{rng.randint(0, 20)}"
    return expression


def sample_equation(rng: random.Random) -> str:
    """Mostly linear with a whole solution; now and then quadratic, or two in two unknowns."""
    draw = rng.random()
    if draw < 0.08:
        x, y = rng.randint(1, 12), rng.randint(1, 12)
        return f"x+y={x + y};x-y={x - y}"
    if draw < 0.20:
        low, high = sorted((rng.randint(1, 9), rng.randint(1, 9)))
        return f"x^2-{low + high}x+{low * high}=0"
    a, x, b = rng.randint(2, 9), rng.randint(1, 20), rng.randint(1, 40)
    if rng.random() < 0.5:
        return f"{a}x+{b}={a * x + b}"
    return f"{a}x-{b}={a * x - b}"


def _sentence_case(text: str, kind: Kind) -> str:
    return text if kind in ("arithmetic", "equation") else text[:1].upper() + text[1:]
