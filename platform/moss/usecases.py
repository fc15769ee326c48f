"""What users want: the eight use cases of Table 4.

Table 5 has other labels (Table 4 gives 53 % to open QA, which Table 5 lacks), so the mapping is
explicit in `moss.categories`; prompts of an unknown class are kept but feed no domain.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from moss.config.synthesis import SamplingConfig
from moss.conversations import language_of
from moss.errors import TeacherResponseError
from moss.recipes import Calls, Row, Sampling, stable_unit, text_of
from moss.structured import ask_parsed
from moss.templates import load_template
from moss.types import Language

USE_CASES: Final[dict[str, float]] = {
    "Open QA": 53.1,
    "Code": 13.5,
    "Chat": 7.4,
    "Generation": 7.2,
    "Math & Reasoning": 5.7,
    "Brainstorming": 5.2,
    "Role-playing": 5.0,
    "NLP Tasks": 2.9,
}
"""Use case -> percentage of served prompts (Table 4)."""

UNKNOWN: Final = "unknown"

EXAMPLES: Final[dict[str, tuple[str, str]]] = {
    "Open QA": ("What is the capital of Norway?", "挪威的首都是哪里？"),
    "Code": (
        "Write a Python function that adds 4 to a number.",
        "写一个Python函数，把一个数加上4。",
    ),
    "Chat": ("I feel happy because of my garden.", "因为花园，我很高兴。"),
    "Generation": ("Write a short poem about rain.", "写一首关于雨的短诗。"),
    "Math & Reasoning": ("What is 15*4+2?", "15*4+2等于多少？"),
    "Brainstorming": ("What are some ideas for saving money?", "省钱有什么好点子？"),
    "Role-playing": ("Act as a tour guide in Rome.", "请扮演一位罗马的导游。"),
    "NLP Tasks": (
        "Is this sentence positive or negative? The soup was cold.",
        "这句话是正面还是负面？汤很冷。",
    ),
}
"""One example per class, English and Chinese, for the few-shot prompt (section 6)."""


def example_of(use_case: str, language: Language) -> str:
    """The example of a class in one language."""
    english, chinese = EXAMPLES[use_case]
    return english if language == "en" else chinese


_LETTERS = re.compile(r"[^a-z&]+")
_SCALE = re.compile(
    r"\b(?:from[ \t]+)?1[ \t]*(?:-|–|~|to)[ \t]*5\b"
    r"|从?1[ \t]*(?:到|至|-|–|~)[ \t]*5"
    r"|(?:/|out of)[ \t]*5\b",
    re.IGNORECASE,
)
"""The scale itself, which answers like to repeat."""
_NUMBER = re.compile(r"(?<![\d.])\d+(?:\.\d+)?")


def parse_use_case(text: str) -> str:
    """The class that the first line with a class names; `UNKNOWN` for none or for several."""
    for line in text.strip().splitlines():
        answer = f" {_simplify(line)} "
        if found := [name for name in USE_CASES if f" {_simplify(name)} " in answer]:
            return found[0] if len(found) == 1 else UNKNOWN
    return UNKNOWN


def _parse_one_class(text: str) -> str:
    name = parse_use_case(text)
    if name == UNKNOWN:
        raise TeacherResponseError(f"{text[:80]!r} does not name one of {', '.join(USE_CASES)}")
    return name


def _simplify(text: str) -> str:
    return " ".join(_LETTERS.sub(" ", text.casefold()).split())


def parse_difficulty(text: str) -> int:
    """A rating from 1 to 5: the one number of the answer, besides the scale itself.

    Raises:
        TeacherResponseError: no such number in the answer, or several.
    """
    answer = _SCALE.sub(" ", unicodedata.normalize("NFKC", text))
    found = set(_NUMBER.findall(answer))
    if len(found) != 1 or not found <= set("12345"):
        raise TeacherResponseError(f"no one difficulty from 1 to 5 in the answer {text[:80]!r}")
    return int(found.pop())


@dataclass(frozen=True, slots=True)
class ClassifyPrompt:
    """Recipe of one served prompt: adds `use_case` and `difficulty`."""

    classifier_model: str
    difficulty_model: str
    sampling: SamplingConfig
    step: str = "classify"

    async def run(self, row: Row, calls: Calls) -> Row:
        """Ask for the class, `UNKNOWN` if the repaired answer names none, then for the difficulty.

        Raises:
            TeacherResponseError: no difficulty in the repaired answer.
        """
        language, prompt = language_of(row), text_of(row, "text")
        examples = "\n".join(
            f"Prompt: {example_of(name, language)}\nClass: {name}" for name in USE_CASES
        )
        template = load_template("classify_use_case", language)
        question = template.render(classes=", ".join(USE_CASES), examples=examples, prompt=prompt)
        sampling = Sampling(self.sampling)
        try:
            use_case = await ask_parsed(
                calls,
                self.classifier_model,
                question,
                sampling,
                step="use_case",
                template=template,
                parse=_parse_one_class,
            )
        except TeacherResponseError:
            use_case = UNKNOWN
        template = load_template("rate_difficulty", language)
        difficulty = await ask_parsed(
            calls,
            self.difficulty_model,
            template.render(prompt=prompt),
            sampling,
            step="difficulty",
            template=template,
            parse=parse_difficulty,
        )
        return {"use_case": use_case, "difficulty": difficulty}


@dataclass(frozen=True, slots=True)
class SeedCandidate:
    """A classified prompt that may become a seed."""

    id: str
    use_case: str
    frequency: int
    """Served prompts it stands for, counted before deduplication."""
    difficulty: int


def select_seeds(
    candidates: Iterable[SeedCandidate], num_seeds: int, *, seed: int
) -> list[SeedCandidate]:
    """Pick seeds by frequency times difficulty, stratified by use case.

    Each class gets its share of the candidates (largest remainders), unknown none; inside a class
    the highest products win and equal ones are drawn by `seed`.
    """
    strata: dict[str, list[SeedCandidate]] = {}
    for candidate in candidates:
        if candidate.use_case != UNKNOWN:
            strata.setdefault(candidate.use_case, []).append(candidate)
    sizes = {name: len(members) for name, members in strata.items()}
    shares = allocate(min(num_seeds, sum(sizes.values())), sizes)
    chosen: list[SeedCandidate] = []
    for name in sorted(strata):
        ranked = sorted(
            strata[name],
            key=lambda c: (-c.frequency * c.difficulty, stable_unit(seed, c.id), c.id),
        )
        chosen += ranked[: shares[name]]
    return sorted(chosen, key=lambda candidate: candidate.id)


def allocate(total: int, weights: Mapping[str, float]) -> dict[str, int]:
    """Split `total` in proportion to `weights`, in whole numbers that add up to it."""
    names: Sequence[str] = sorted(weights)
    whole = sum(weights.values())
    if total <= 0 or whole <= 0:
        return dict.fromkeys(names, 0)
    exact = {name: total * weights[name] / whole for name in names}
    shares = {name: int(exact[name]) for name in names}
    by_remainder = sorted(names, key=lambda name: (shares[name] - exact[name], name))
    for name in by_remainder[: total - sum(shares.values())]:
        shares[name] += 1
    return shares
