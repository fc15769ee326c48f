"""Served prompts to clean, counted, unique ones (paper section 6).

Order matters: consent first, then redaction, so that nothing a user did not share and no personal
data reaches a teacher; frequency is counted by deduplication, which would otherwise erase it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from moss import storage
from moss.config.synthesis import DedupConfig, SamplingConfig, VisitorsConfig
from moss.conversations import language_of
from moss.dedup import cluster_sizes, deduplicate, detect_language, is_too_short
from moss.errors import DataError, TeacherResponseError
from moss.recipes import Calls, Row, Sampling, stable_unit, text_of
from moss.scrub import scrub
from moss.selfinstruct import Example, parse_prompts, render_examples
from moss.templates import load_template
from moss.turns import choose_weighted
from moss.usecases import USE_CASES, example_of

_SQLITE = (".sqlite", ".sqlite3", ".db")
_STORE_QUERY = "SELECT prompt AS text, consent FROM turn ORDER BY created_at, id"
"""Prompts of the chat service's store, oldest first."""
NO_CONSENT = frozenset({"", "none", "0", "false"})


def read_served_prompts(path: str) -> list[Row]:
    """Rows with `text` and `consent` from JSONL, Parquet or the chat store's SQLite file.

    Rows are numbered in the order of the source; a missing consent counts as none.

    Raises:
        DataError: a row without text, or a file of another kind.
    """
    if path.endswith(".parquet"):
        found: Sequence[Mapping[str, object]] = storage.read_rows(path)
    elif path.endswith(".jsonl"):
        lines = storage.read_text(path).splitlines()
        found = [json.loads(line) for line in lines if line.strip()]
    elif path.endswith(_SQLITE):
        found = _read_sqlite(path)
    else:
        raise DataError(f"{path} is not .parquet, .jsonl or {', '.join(_SQLITE)}")
    return [
        {
            "id": f"served-{number:08d}",
            "text": text_of(row, "text"),
            "consent": str(row.get("consent") or "").casefold() not in NO_CONSENT,
            "source": "user",
        }
        for number, row in enumerate(found, 1)
    ]


def _read_sqlite(path: str) -> list[Mapping[str, object]]:
    local = Path(path.removeprefix("file://")).resolve()
    with closing(sqlite3.connect(f"file:{local}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        try:
            rows = connection.execute(_STORE_QUERY).fetchall()
        except sqlite3.Error as error:
            raise DataError(f"{path} is not a store of the chat service: {error}") from error
    return [dict(row) for row in rows]


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
    text, num_redacted = scrub(text_of(row, "text"))
    language = detect_language(text)
    row = {**row, "text": text, "language": language, "num_redacted": num_redacted}
    if is_too_short(text, dedup):
        return _filtered(row, "length", "too short")
    return {**row, "status": "ok", "step": "clean", "reason": ""}


def _filtered(row: Row, step: str, reason: str) -> Row:
    return {**row, "status": "filtered", "step": step, "reason": reason}
