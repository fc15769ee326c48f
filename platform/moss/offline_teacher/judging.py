"""Pairwise judging by a stated rubric, computed from the texts alone (paper section 7.1).

The judge solves the prompt itself. Its rubric, 12 points, is the one that the `judge_pair` template
states; criteria are gated in their order, so quality rises with each visible feature:

    legible 1    no word or phrase over and over; otherwise the total is 0
    language 1   the user's language; otherwise nothing below counts
    topic 2      about the request and not evasive; otherwise nothing below counts
    correct 2    right; a computed answer counts 1, a harmful request is refused
    ended 1, sentence 2, detail 2, courtesy 1

Equal totals go to the first seat, so that both orders disagree and the pair becomes a tie.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Final, Literal

from moss.offline_teacher.reference import Reference, bigrams, references, tokenize
from moss.types import Language
from moss.world.recognition import language_of_text
from moss.world.tables import lines

_TERMINAL = ".!?。！？"
_MIN_RECALL = 0.6
"""Share of a reference sentence's word pairs that a response must hold to be such a sentence."""
_REPEAT_LENGTH: Final[dict[Language, int]] = {"en": 4, "zh": 6}
"""Words (characters) of a phrase that may stand only once."""
_LATIN_WORD = re.compile(r"[a-z]{2,}")
_POLITE = re.compile(
    r"\b(?:hope|feel free|glad to help|welcome)\b|希望|欢迎|随时|乐意", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class RubricScore:
    """Points of one response, in the rubric's order."""

    legible: int = 0
    language: int = 0
    topic: int = 0
    correct: int = 0
    ended: int = 0
    sentence: int = 0
    detail: int = 0
    courtesy: int = 0

    @property
    def total(self) -> int:
        """0 to 12."""
        return sum(asdict(self).values())

    def line(self, seat: str) -> str:
        """The score as the judge writes it."""
        points = ", ".join(f"{name} {value}" for name, value in asdict(self).items())
        return f"Response {seat}: {points}; total {self.total}"


def judge_pair(prompt: str, response_a: str, response_b: str) -> str:
    """Two lines of scores and a verdict line.

    Args:
        prompt: the user's last message.
    """
    first, second = score_response(prompt, response_a), score_response(prompt, response_b)
    verdict: Literal["A", "B"] = "A" if first.total >= second.total else "B"
    return f"{first.line('A')}\n{second.line('B')}\nVerdict: {verdict}"


def score_response(prompt: str, response: str) -> RubricScore:
    """Points of a response to a user's message, of any origin: whole, cut, wrong or garbled."""
    response = response.strip()
    language = language_of_text(prompt)
    if not _is_legible(response):
        return RubricScore()
    candidates = references(prompt.strip())
    if not candidates:
        return _score_outside(response, language)
    return max((_score(response, item) for item in candidates), key=lambda score: score.total)


def _score(response: str, reference: Reference) -> RubricScore:
    if not _speaks(response, reference):
        return RubricScore(legible=1)
    is_evasive = response.casefold().startswith(_evasive_openings(reference.language))
    topic = 0 if is_evasive else reference.topic_points(response)
    if not topic:
        return RubricScore(legible=1, language=1)
    finished = response[: 1 + max(response.rfind(mark) for mark in _TERMINAL)]
    said = bigrams(tokenize(finished))
    return RubricScore(
        legible=1,
        language=1,
        topic=topic,
        correct=reference.correct_points(response),
        ended=int(_has_ended(response)),
        sentence=2 * _matches(reference.sentences, said),
        detail=2 * _matches(reference.details, said),
        courtesy=int(bool(_POLITE.search(finished))),
    )


def _score_outside(response: str, language: Language) -> RubricScore:
    """A prompt that the judge cannot solve: form only."""
    in_language = language_of_text(response) == language
    if not in_language or response.casefold().startswith(_evasive_openings(language)):
        return RubricScore(legible=1, language=int(in_language))
    sentences = [part for part in re.split(f"[{_TERMINAL}]", response) if len(tokenize(part)) > 3]
    return RubricScore(
        legible=1,
        language=1,
        topic=1,
        ended=int(_has_ended(response)),
        sentence=2 * bool(sentences),
        detail=2 * (len(sentences) > 1),
        courtesy=int(bool(_POLITE.search(response))),
    )


def _is_legible(response: str) -> bool:
    """Whether it says something, and nothing over and over."""
    tokens = tokenize(response)
    words = [token for token in tokens if token.isalpha()]
    if not tokens:
        return False
    if len(words) >= 6 and len(set(words)) < len(words) / 2:
        return False
    language = language_of_text(response)
    if language == "en" and any(a == b for a, b in pairwise(tokens)):
        return False
    length = _REPEAT_LENGTH[language]
    spans = Counter(tuple(words[i : i + length]) for i in range(len(words) - length + 1))
    return not spans or max(spans.values()) == 1


def _speaks(response: str, reference: Reference) -> bool:
    """Whether it is in the user's language; numbers, symbols and code are in every language."""
    has_chinese = language_of_text(response) == "zh"
    if reference.language == "en":
        return not has_chinese
    return has_chinese or not _LATIN_WORD.search(reference.without_required(response))


def _has_ended(response: str) -> bool:
    return response.rstrip("\"'”’)）`").endswith(tuple(_TERMINAL))


def _matches(wanted: Sequence[Counter[tuple[str, str]]], said: Counter[tuple[str, str]]) -> bool:
    return any((pairs & said).total() >= _MIN_RECALL * pairs.total() for pairs in wanted)


def _evasive_openings(language: Language) -> tuple[str, ...]:
    return tuple(text.rstrip(".。").casefold() for text in lines(language, "common", "evasive"))
