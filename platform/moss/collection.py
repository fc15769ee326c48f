"""Served prompts to clean, counted, unique ones (paper section 6).

Order matters: consent first, then redaction, so that nothing a user did not share and no personal
data reaches a teacher; frequency is counted by deduplication, which would otherwise erase it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moss.config.synthesis import DedupConfig, SamplingConfig, VisitorsConfig
from moss.conversations import language_of
from moss.dedup import cluster_sizes, deduplicate, detect_language, is_too_short
from moss.errors import TeacherResponseError
from moss.recipes import Calls, Row, Sampling, stable_unit, text_of
from moss.scrub import scrub
from moss.selfinstruct import Example, parse_prompts, render_examples
from moss.templates import load_template
from moss.turns import choose_weighted
from moss.usecases import USE_CASES, example_of


def visitor_rows(config: VisitorsConfig, *, seed: int) -> list[Row]:
    """Visits to simulate: topics as in Table 4, a language, whether the visitor consents."""
    rows: list[Row] = []
    for number in range(1, config.num_prompts + 1):
        row_id = f"visitor-{number:08d}"
        in_chinese = stable_unit(seed, "language", row_id) < config.zh_share
        rows.append(
            {
                "id": row_id,
                "language": "zh" if in_chinese else "en",
                "topic": choose_weighted(USE_CASES, seed=seed, row_id=row_id),
                "consent": stable_unit(seed, "consent", row_id) < config.consent_share,
                "source": "simulated",
            }
        )
    return rows


@dataclass(frozen=True, slots=True)
class SimulateVisitor:
    """Recipe of one visit: adds `text`, a prompt of the visitor's use case.

    It is asked for as Self-Instruct asks, with the use case's example, so that language and topic
    are those of the visit.
    """

    model: str
    sampling: SamplingConfig
    step: str = "visit"

    async def run(self, row: Row, calls: Calls) -> Row:
        """Ask once.

        Raises:
            TeacherResponseError: no prompt in the answer.
        """
        language = language_of(row)
        example = Example("example", example_of(text_of(row, "topic"), language))
        template = load_template("extend_prompts", language)
        prompt = template.render(examples=render_examples([example]), count=1)
        sampling = Sampling(self.sampling)
        answer = await calls.ask(self.model, prompt, sampling, step=self.step, template=template)
        texts = parse_prompts(answer.text, count=1, is_truncated=False)
        if not texts:
            raise TeacherResponseError("the simulated visitor said nothing")
        return {"text": texts[0], "model": self.model}


def clean(rows: Sequence[Row], dedup: DedupConfig) -> list[Row]:
    """Every row with its status: consented, scrubbed, long enough, unique; adds `frequency`.

    Text without consent is emptied, so it is not stored. `language` is detected from the text.
    """
    checked = [_checked(row, dedup) for row in rows]
    verdicts = deduplicate(
        ((text_of(row, "id"), text_of(row, "text")) for row in checked if row["status"] == "ok"),
        dedup,
    )
    sizes = cluster_sizes(verdicts)
    kept = {verdict.id: verdict for verdict in verdicts}
    cleaned = []
    for row in checked:
        verdict = kept.get(str(row["id"]))
        if verdict is not None and verdict.reason:
            reason = f"{verdict.reason} of {verdict.kept_id}"
            row = {**row, "status": "filtered", "step": "dedup", "reason": reason}
        elif verdict is not None:
            row = {**row, "frequency": sizes[verdict.id]}
        cleaned.append(row)
    return cleaned


def _checked(row: Row, dedup: DedupConfig) -> Row:
    if row.get("status", "ok") != "ok":
        return row
    if not row["consent"]:
        return _filtered({**row, "text": ""}, "consent", "the user did not consent")
    if row.get("is_repeat"):
        return _filtered({**row, "text": ""}, "repeat", "asked again for another answer")
    text, num_redacted = scrub(text_of(row, "text"))
    language = detect_language(text)
    row = {**row, "text": text, "language": language, "num_redacted": num_redacted}
    if is_too_short(text, dedup):
        return _filtered(row, "length", "too short")
    return {**row, "status": "ok", "step": "clean", "reason": ""}


def _filtered(row: Row, step: str, reason: str) -> Row:
    return {**row, "status": "filtered", "step": step, "reason": reason}
