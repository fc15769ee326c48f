"""Fill a kind's payload with words: the slots that phrases of one language may use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from moss.persona import Persona, load_persona
from moss.types import Language
from moss.world.numbers import evaluate, show, solve
from moss.world.question import Kind
from moss.world.tables import facts, lines, named, tables

Payload = Mapping[str, str]
Slots = dict[str, str]

FIELDS: Final[dict[Kind, tuple[str, ...]]] = {
    "writing": ("style", "form", "topic"),
    "brainstorming": ("plan", "audience"),
    "chat": ("feeling", "thing"),
    "role_play": ("character", "act"),
    "code": ("task",),
    "harmful": ("misdeed",),
    "image": ("color", "object", "scene"),
    "sentiment": ("subject", "opinion", "moment"),
}
"""Tables whose rows make up the payload of each kind that is built from tables."""

OPTIONAL: Final[dict[str, str]] = {
    "style": "simple",
    "form": "sentence",
    "audience": "beginners",
    "thing": "my plan",
    "act": "introduce yourself",
    "color": "",
    "scene": "",
    "moment": "today",
}
"""What a text may leave unsaid, and the row that stands in; "" leaves the slot empty."""

DEFAULT_PERSONA: Final = "MOSS"
_JOIN: Final[dict[Language, str]] = {"en": " and ", "zh": "和"}
_PARITY: Final[dict[Language, tuple[str, str]]] = {"en": ("even", "odd"), "zh": ("偶数", "奇数")}


def fill(kind: Kind, payload: Payload, language: Language, persona: Persona | None = None) -> Slots:
    """Every slot of a question's phrases in one language."""
    maker = _MAKERS.get(kind)
    if maker is not None:
        return maker(payload, language)
    if kind == "identity":
        return _identity(language, persona)
    slots: Slots = {}
    for name in FIELDS[kind]:
        key = payload.get(name, "")
        if key in tables()[name].rows:
            slots |= tables()[name].rows[key].slots[language]
        else:
            slots[name] = ""
    return _finish(kind, slots, payload, language)


def answer_of(kind: Kind, payload: Payload, language: Language, slots: Slots) -> str:
    """What a right reply says: all that the judge requires, in one line."""
    key = payload.get(_key_name(kind), "")
    required = lines(language, kind, "require", key)
    return ", ".join(item.format_map(slots) for item in required)


def phrase_key(kind: Kind, payload: Payload) -> str:
    """Which of the keyed phrasings apply: the fact's attribute, the persona's trait."""
    return payload.get(_key_name(kind), "")


def _key_name(kind: Kind) -> str:
    return {"fact": "attribute", "identity": "trait"}.get(kind, "")


def _arithmetic(payload: Payload, language: Language) -> Slots:
    expressions = payload["expression"].split(";")
    values = [evaluate(expression) for expression in expressions]
    join = _JOIN[language]
    last = values[-1]
    is_odd = last.denominator != 1 or bool(last.numerator % 2)
    return {
        "expression": join.join(expressions),
        "answer": join.join(show(value) for value in values),
        "parity": _PARITY[language][is_odd],
    }


def _equation(payload: Payload, language: Language) -> Slots:  # noqa: ARG001 same signature as its kin
    equations = payload["equation"].split(";")
    return {"equation": ", ".join(equations), "answer": solve(equations)}


def _fact(payload: Payload, language: Language) -> Slots:
    fact = facts()[payload["fact"]]
    return {
        "entity": fact.entity[language],
        "attribute": named(language, "fact", "attributes")[fact.attribute],
        "value": fact.value[language],
        "class": fact.description[language],
    }


def _identity(language: Language, persona: Persona | None) -> Slots:
    told = persona or load_persona(DEFAULT_PERSONA, language)
    return {
        "name": told.name,
        "created_by": told.created_by,
        "born_in": told.born_in,
        "birthday": told.birthday,
        "language": told.language,
        "can_do": told.can_do,
        "cannot_do": told.cannot_do,
    }


def _code(payload: Payload, language: Language) -> Slots:
    row = tables()["task"].rows[payload["task"]].slots[language]
    return {name: text.format(n=payload["n"]) for name, text in row.items()}


_MAKERS: Final[dict[Kind, Callable[[Payload, Language], Slots]]] = {
    "arithmetic": _arithmetic,
    "equation": _equation,
    "fact": _fact,
    "code": _code,
}


def _finish(kind: Kind, slots: Slots, payload: Payload, language: Language) -> Slots:
    """Slots that are made from others."""
    if kind == "image":
        slots["description"] = describe(payload, language)
    elif kind == "sentiment":
        slots["sentiment_cap"] = slots["sentiment"].capitalize()
        slots["subject_low"] = slots["subject"].lower()
    elif kind == "chat":
        slots["thing_yours"] = slots["thing"].replace("my ", "your ").replace("我的", "你的")
    elif kind == "harmful" and not slots["misdeed"]:
        vague = {"en": ("do that", "it can hurt people"), "zh": ("做这件事", "这会伤害别人")}
        slots["misdeed"], slots["reason"] = vague[language]
    return slots


def describe(payload: Payload, language: Language) -> str:
    """The picture of an image question in words: "a red fox in the snow", "雪地里的红色狐狸"."""
    words = {}
    for name in FIELDS["image"]:
        key = payload.get(name, "")
        words[name] = tables()[name].rows[key].slots[language][name] if key else ""
    if language == "zh":
        where = f"{words['scene']}的" if words["scene"] else ""
        return f"{where}{words['color']}{words['object']}"
    return " ".join(filter(None, ("a", words["color"], words["object"], words["scene"])))
