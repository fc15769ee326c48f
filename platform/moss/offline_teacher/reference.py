"""What the judge expects of a good response: it answers the prompt itself, in every phrasing."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from moss.persona import load_persona
from moss.types import Language
from moss.world import Question, recognize
from moss.world.replies import all_phrases
from moss.world.slots import fill, phrase_key
from moss.world.tables import facts, lines

Pairs = Counter[tuple[str, str]]

_TOKEN = re.compile(r"[\u3400-\u9fff]|[a-z]+|\d+|=+|[-+*/^<>%:,]")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_PERSONAS = ("MOSS", "MOSS-paper")


def tokenize(text: str) -> list[str]:
    """Words, Chinese characters, numbers and operators, in lower case."""
    return _TOKEN.findall(text.casefold())


def bigrams(tokens: Sequence[str]) -> Pairs:
    """Adjacent pairs with their counts."""
    return Counter(pairwise(tokens))


@dataclass(frozen=True, slots=True)
class Reference:
    """The judge's own answer to one prompt."""

    question: Question
    required: tuple[str, ...]
    """Texts that a right response holds."""
    topic: tuple[str, ...]
    """Texts of which a response about the request holds one."""
    forbidden: tuple[str, ...]
    """Openings that make a response wrong."""
    sentences: tuple[Pairs, ...]
    """Word pairs of each full-sentence answer, those inside the required texts left out."""
    details: tuple[Pairs, ...]

    @property
    def language(self) -> Language:
        """The prompt's language."""
        return self.question.language

    def topic_points(self, response: str) -> int:
        """2: names the topic or holds the answer; 1: an answer of the right sort; 0: neither."""
        if self.forbidden and response.startswith(self.forbidden):
            return 0
        if any(_contains(response, text) for text in (*self.topic, *self.required)):
            return 2
        if self.question.kind == "fact":
            return int(any(_contains(response, value) for value in self._values()))
        return int(self._is_computed and bool(_NUMBER.search(response)))

    def correct_points(self, response: str) -> int:
        """2 for a right response, 1 where the answer is computed, 0 for a wrong one."""
        if self._is_computed:
            return int(self._computes_right(response))
        if not self.required or not all(_contains(response, text) for text in self.required):
            return 0
        if self.question.kind == "fact":
            others = [value for value in self._values() if value != self.required[0]]
            plain = _without_closes(response, self.language)
            if any(_contains(plain, value) for value in others if value not in self.required[0]):
                return 0
        return 2

    def without_required(self, response: str) -> str:
        """The response in lower case, without the texts that no language changes."""
        text = response.casefold()
        for item in self.required:
            text = text.replace(item.casefold(), " ")
        return text.replace("lambda", " ").replace("python", " ")

    @property
    def _is_computed(self) -> bool:
        return self.question.kind in ("arithmetic", "equation")

    def _computes_right(self, response: str) -> bool:
        """The answer, and no number beside it and those of the question."""
        rest = response
        for text in self.topic:
            rest = rest.replace(text, " ")
        answer = self.required[0] if self.required else ""
        said, expected = set(_NUMBER.findall(rest)), set(_NUMBER.findall(answer))
        return bool(answer) and _contains(rest, answer) and said <= expected

    def _values(self) -> list[str]:
        """Values of the same attribute, of all entities."""
        attribute = self.question.payload["attribute"]
        return [
            fact.value[self.language] for fact in facts().values() if fact.attribute == attribute
        ]


@lru_cache(maxsize=4096)
def references(prompt: str) -> tuple[Reference, ...]:
    """One reference per persona that may have been meant; none outside the domain."""
    question = recognize(prompt)
    if question is None:
        return ()
    personas = _PERSONAS if question.kind == "identity" else _PERSONAS[:1]
    return tuple(_reference(question, name) for name in personas)


def _reference(question: Question, persona_name: str) -> Reference:
    persona = load_persona(persona_name, question.language)
    slots = fill(question.kind, question.payload, question.language, persona)
    key = phrase_key(question.kind, question.payload)

    def filled(section: str) -> tuple[str, ...]:
        found = lines(question.language, question.kind, section, key)
        return tuple(filter(None, (text.format_map(slots) for text in found)))

    required = filled("require")
    inside = Counter[tuple[str, str]]()
    for text in required:
        inside |= bigrams(tokenize(text))
    sentences = [bigrams(tokenize(text)) for text in all_phrases(question, "sentence", persona)]
    details = [bigrams(tokenize(text)) for text in all_phrases(question, "detail", persona)]
    return Reference(
        question,
        required,
        filled("topic"),
        filled("forbid"),
        tuple(pairs - inside for pairs in sentences),
        tuple(details),
    )


@lru_cache(maxsize=4096)
def _pattern(item: str) -> re.Pattern[str]:
    """Whole words and numbers only; a one- or two-letter symbol keeps its case."""
    text = item.strip()
    before = r"(?<![A-Za-z0-9.-])" if text[:1].isascii() and text[:1].isalnum() else ""
    after = r"(?![A-Za-z0-9])(?!\.\d)" if text[-1:].isascii() and text[-1:].isalnum() else ""
    is_symbol = len(text) <= 2 and text.isascii() and text.isalpha() and text != "I"
    return re.compile(before + re.escape(text) + after, 0 if is_symbol else re.IGNORECASE)


def _contains(response: str, item: str) -> bool:
    return bool(_pattern(item).search(response))


def _without_closes(response: str, language: Language) -> str:
    for close in lines(language, "common", "close"):
        response = response.replace(close, " ")
    return response
