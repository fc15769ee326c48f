"""Which of two responses is better, asked in both orders (paper section 7.1).

A pair that is judged differently when its seats are swapped is a tie, as is one that both orders
call a tie (position bias: Zheng et al. 2023, section 3.3). A verdict that cannot be read makes the
pair invalid; it is never counted as a win for anyone.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from moss.chat import Conversation
from moss.config.synthesis import SamplingConfig
from moss.conversations import language_of
from moss.errors import DataError, TeacherResponseError
from moss.recipes import Calls, Row, Sampling, text_of
from moss.structured import ask_parsed
from moss.templates import Template, load_template
from moss.types import Language

Label = Literal["a", "b", "tie", "invalid"]
Verdict = Literal["A", "B", "tie", "invalid"]

_VERDICT = re.compile(r"\bverdict\**[ \t]*:(.*)", re.IGNORECASE)
_MARKUP = re.compile(r"[*\"'`_\[\](){}<>“”‘’「」【】《》]")
_CHOICE = re.compile(
    r"(?i:response |answer )?"
    r"(?:([AB])(?:(?: is | wins| because | ?[-:,;] ?\w{2}).*)?|(?i:([ab])|(?:a )?(tie)))"
)
"""A choice alone, or a capital letter and what speaks for it; `a` may be an article."""
_SWAPPED: Mapping[Verdict, Verdict] = {"A": "B", "B": "A", "tie": "tie", "invalid": "invalid"}


def parse_verdict(text: str) -> Verdict:
    """The last "Verdict: A|B|tie" line; "invalid" where there is none or it names no one choice."""
    found = _VERDICT.findall(unicodedata.normalize("NFKC", text))
    if not found:
        return "invalid"
    stated = " ".join(_MARKUP.sub(" ", found[-1]).split())
    choice = _CHOICE.fullmatch(stated.rstrip(".!。 "))
    if choice is None:
        return "invalid"
    if choice[3]:
        return "tie"
    return "A" if (choice[1] or choice[2]).upper() == "A" else "B"


def combine(first: Verdict, swapped: Verdict) -> Label:
    """Label of a pair from its two verdicts, each in the seats of its own order."""
    second = _SWAPPED[swapped]
    if "invalid" in (first, second):
        return "invalid"
    if first != second or first == "tie":
        return "tie"
    return "a" if first == "A" else "b"


def make_pairs(models: Sequence[str]) -> list[tuple[str, str]]:
    """All unordered pairs of distinct models: 15 of six.

    Raises:
        DataError: a model occurs twice; a judge cannot tell responses of one model apart.
    """
    if len(set(models)) != len(models):
        raise DataError(f"pairs need distinct models, got {', '.join(models)}")
    return list(itertools.combinations(models, 2))


def render_history(conversation: Conversation) -> str:
    """The shared history that a judge reads: all turns, the last one's reply left out."""
    lines = []
    for number, turn in enumerate(conversation.turns, 1):
        lines.append(f"[Human]: {turn.human}")
        if number < len(conversation.turns):
            lines.append(f"[MOSS]: {turn.moss}")
    return "\n".join(lines)


def render_judgment(history: str, response_a: str, response_b: str, language: Language) -> str:
    """The judge's prompt for one order."""
    return judge_template(language).render(
        conversation=history, response_a=response_a, response_b=response_b
    )


def judge_template(language: Language) -> Template:
    """The template of a judge's prompt."""
    return load_template("judge_pair", language)


@dataclass(frozen=True, slots=True)
class JudgePair:
    """Recipe of one pair. Reads `conversation`, `model_a/b`, `response_a/b`, `language`.

    Adds `verdict_ab`, `verdict_ba` (each in the seats of its own order) and `label`. Equal
    responses are not asked about: `label` tie, status skipped.
    """

    model: str
    sampling: SamplingConfig
    step: str = "judge"

    async def run(self, row: Row, calls: Calls) -> Row:
        """Ask in both orders.

        Raises:
            DataError: both responses are of one model.
        """
        if row["model_a"] == row["model_b"]:
            raise DataError(f"both responses are of {row['model_a']!r}; pairs need two models")
        a, b = text_of(row, "response_a"), text_of(row, "response_b")
        if a.strip() == b.strip():
            tie = {"verdict_ab": "tie", "verdict_ba": "tie", "label": "tie"}
            return {**tie, "status": "skipped", "reason": "identical responses"}
        history = render_history(Conversation.from_json(text_of(row, "conversation")))
        language = language_of(row)
        verdicts: list[Verdict] = []
        for order, (first, second) in (("ab", (a, b)), ("ba", (b, a))):
            prompt = render_judgment(history, first, second, language)
            template = judge_template(language)
            verdicts.append(await self._ask(prompt, calls, order=order, template=template))
        label = combine(verdicts[0], verdicts[1])
        columns: Row = {"verdict_ab": verdicts[0], "verdict_ba": verdicts[1], "label": label}
        if label == "invalid":
            return {**columns, "status": "failed", "reason": "a verdict could not be read"}
        return columns

    async def _ask(self, prompt: str, calls: Calls, *, order: str, template: Template) -> Verdict:
        try:
            return await ask_parsed(
                calls,
                self.model,
                prompt,
                Sampling(self.sampling),
                step=f"{self.step}-{order}",
                template=template,
                parse=_readable_verdict,
            )
        except TeacherResponseError:
            return "invalid"


def _readable_verdict(text: str) -> Verdict:
    verdict = parse_verdict(text)
    if verdict == "invalid":
        raise TeacherResponseError('there is no line "Verdict: A", "Verdict: B" or "Verdict: tie"')
    return verdict
