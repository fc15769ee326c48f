"""Replies of graded quality, in features that a small model can see.

0  garbled: a few words over and over
1  evasive or in the other language; for a harmful request, it complies
2  the beginning of a sentence that never arrives
3  right and bare
4  right, a full sentence
5  the sentence, a short detail and a polite close
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from typing import Final

from moss.persona import Persona
from moss.types import Language
from moss.world.question import Question
from moss.world.slots import describe, fill, phrase_key
from moss.world.tables import lines, phrases

LEVELS: Final = range(6)

_OTHER: Final[dict[Language, Language]] = {"en": "zh", "zh": "en"}
_SPACE: Final[dict[Language, str]] = {"en": " ", "zh": ""}
_UNITS: Final[dict[Language, re.Pattern[str]]] = {
    "en": re.compile(r"\S+\s*"),
    "zh": re.compile(r"[ A-Za-z0-9+\-*/^=().`]+|."),
}
"""Where a fragment may be cut: English words; Chinese characters, numbers and code."""
_MIN_FRAGMENT: Final[dict[Language, int]] = {"en": 6, "zh": 4}
_HAS_WORDS = re.compile(r"[A-Za-z]{2}|[\u3400-\u9fff]")
_CITED = re.compile(r"^<\|(\d+)\|>: ", re.MULTILINE)
_FIRST_SENTENCE = re.compile(r"^.*?(?:[.!?](?=\s|['\"]|$)|[。！？])", re.DOTALL)


def compose_reply(
    question: Question, level: int, rng: random.Random, persona: Persona | None = None
) -> str:
    """A reply of quality `level` (0 to 5) without tools.

    Args:
        persona: who the assistant is, in the question's language; the neutral one if None.
    """
    if level == 0:
        return _garble(question.language, rng)
    if level == 1:
        return _poor(question, rng)
    if level >= 3 and not question.answer:
        return rng.choice(lines(question.language, "common", "evasive"))
    if level == 3:
        return phrase(question, "bare", rng, persona)
    sentence = phrase(question, "sentence", rng, persona)
    if level == 2:
        return _fragment(question, sentence, rng)
    if level == 4:
        return sentence
    detail = phrase(question, "detail", rng, persona)
    close = rng.choice(lines(question.language, "common", "close"))
    return _SPACE[question.language].join((sentence, detail, close))


def phrase(
    question: Question, section: str, rng: random.Random, persona: Persona | None = None
) -> str:
    """One phrasing of a section (`bare`, `sentence`, `detail`), slots filled."""
    return rng.choice(all_phrases(question, section, persona))


def all_phrases(
    question: Question,
    section: str,
    persona: Persona | None = None,
    language: Language | None = None,
) -> list[str]:
    """Every phrasing of a section, slots filled; in another language if one is given."""
    chosen = language or question.language
    slots = fill(question.kind, question.payload, chosen, persona)
    found = lines(chosen, question.kind, section, phrase_key(question.kind, question.payload))
    return [_capitalized(text.format_map(slots), question) for text in found]


def compose_tool_reply(
    question: Question | None, results: Sequence[str], rng: random.Random, language: Language
) -> str:
    """The reply after tool calls: it copies what the tools found.

    Args:
        results: body of each result, the text after `=>` in the tool's own layout, in order.
        language: what to answer in if there is no question.
    """
    if question is not None:
        language = question.language
    if not results or (question is not None and all(_is_empty(body) for body in results)):
        return _no_result(question, language)
    if question is None:
        return first_found(results[0])
    if question.kind in ("arithmetic", "equation"):
        return _copied_values(question, results, rng)
    if question.kind == "image":
        slots = fill("image", question.payload, language)
        template = rng.choice(lines(language, "image", "tool_reply"))
        return template.format_map(slots)
    page = _CITED.search(results[0])
    number = page[1] if page else "1"
    citation = f"<sup><|{number}|></sup>"
    found = first_found(results[0])
    return f"{found[:-1]}{citation}{found[-1]}" if found[-1:] in (".", "。") else found + citation


def first_found(body: str) -> str:
    """The first sentence of the first page, or the value, without its quotes."""
    text = _CITED.split(body.strip())[-1 if not _CITED.search(body) else 2].strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1]
    sentence = _FIRST_SENTENCE.match(text)
    return sentence.group().strip() if sentence and _CITED.search(body) else text


def _copied_values(question: Question, results: Sequence[str], rng: random.Random) -> str:
    slot = "expression" if question.kind == "arithmetic" else "equation"
    asked = question.payload[slot].split(";")
    if question.kind == "equation":
        asked = [", ".join(asked)]
    template = rng.choice(lines(question.language, question.kind, "tool_reply"))
    parts = []
    for expression, body in zip(asked, results, strict=False):
        if _is_empty(body):
            parts.append(_no_result_for(expression, question.language))
            continue
        value = ", ".join(line for line in first_found(body).splitlines() if line.strip())
        parts.append(template.format_map({slot: expression, "answer": value}))
    return _SPACE[question.language].join(parts)


def _no_result(question: Question | None, language: Language) -> str:
    if question is None:
        return lines(language, "common", "unknown")[0]
    slots = fill(question.kind, question.payload, language)
    if question.kind == "image":
        return _no_result_for(describe(question.payload, language), language)
    for slot in ("expression", "equation", "entity"):
        if slot in slots:
            return _no_result_for(slots[slot], language)
    return lines(language, "common", "unknown")[0]


def _no_result_for(query: str, language: Language) -> str:
    return str(phrases(language)["tools"]["no_result"]).format(query=query)


def _is_empty(body: str) -> bool:
    return body.strip().strip("'\"").startswith(("No result", "No calculation results"))


def _garble(language: Language, rng: random.Random) -> str:
    words = rng.sample(lines(language, "common", "garble"), 2)
    picked = [words[0], words[0], *rng.choices(words, k=rng.randint(4, 8))]
    return _SPACE[language].join(picked)


def _poor(question: Question, rng: random.Random) -> str:
    if question.kind == "harmful":
        return phrase(question, "comply", rng)
    if rng.random() < 0.5:
        return rng.choice(lines(question.language, "common", "evasive"))
    other = all_phrases(question, "sentence", language=_OTHER[question.language])
    return rng.choice([text for text in other if _HAS_WORDS.search(text)])


def _fragment(question: Question, sentence: str, rng: random.Random) -> str:
    """The first part of a sentence, cut before what matters most, without its end."""
    units = _UNITS[question.language].findall(sentence)
    keep = "".join(units[: max(2, math.ceil(len(units) * rng.uniform(0.5, 0.7)))])
    slots = fill(question.kind, question.payload, question.language)
    key = phrase_key(question.kind, question.payload)
    required = lines(question.language, question.kind, "require", key)[-1].format_map(slots)
    before = sentence.split(required, 1)[0] if required else sentence
    cut = before if _MIN_FRAGMENT[question.language] <= len(before) < len(keep) else keep
    return cut.rstrip(" .,!:`。，！：、")


def _capitalized(text: str, question: Question) -> str:
    if question.kind in ("arithmetic", "equation", "code"):
        return text
    return text[:1].upper() + text[1:]
