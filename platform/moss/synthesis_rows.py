"""What the synthesis stages write: row schemas, accounts of every row, and the end of a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from moss import storage
from moss.config.teacher import TeacherConfig
from moss.lineage import Cost, Manifest, Run, count_statuses
from moss.manifest import ModelCost
from moss.recipes import USAGE, Row, usage_usd
from moss.row_files import NamedRows, write_row_file
from moss.row_spool import RowSpool

if TYPE_CHECKING:
    import pyarrow as pa

Dataset = Literal[
    "prompts", "collected", "conversations", "tool_conversations", "responses", "pairs"
]
Kind = Literal["text", "int", "texts", "responses"]

_COMMON: dict[str, Kind] = {
    "id": "text",
    "status": "text",
    "step": "text",
    "reason": "text",
    "attempts": "int",
    "parents": "texts",
    "model": "text",
    "ledger_keys": "texts",
}
_CONVERSATION: dict[str, Kind] = {
    "prompt_id": "text",
    "language": "text",
    "category": "text",
    "split": "text",
    "conversation": "text",
    "num_turns": "int",
    "grade_model": "text",
}
COLUMNS: dict[Dataset, dict[str, Kind]] = {
    "prompts": {
        **_COMMON,
        "text": "text",
        "language": "text",
        "category": "text",
        "source": "text",
    },
    "collected": {
        **_COMMON,
        "text": "text",
        "language": "text",
        "category": "text",
        "source": "text",
        "use_case": "text",
        "difficulty": "int",
        "frequency": "int",
    },
    "conversations": {**_COMMON, **_CONVERSATION},
    "tool_conversations": {**_COMMON, **_CONVERSATION, "tool": "text", "kind": "text"},
    "responses": {
        **_COMMON,
        "prompt_id": "text",
        "language": "text",
        "category": "text",
        "split": "text",
        "conversation": "text",
        "responses": "responses",
    },
    "pairs": {
        **_COMMON,
        "prompt_id": "text",
        "language": "text",
        "conversation": "text",
        "model_a": "text",
        "model_b": "text",
        "response_a": "text",
        "response_b": "text",
        "label": "text",
        "verdict_ab": "text",
        "verdict_ba": "text",
        "split": "text",
    },
}
"""Columns of each file under `data/`. Every row has the common ones; a failed row's own columns
hold what was known when it failed, else an empty text, 0 or an empty list."""

_EMPTY: dict[Kind, object] = {"text": "", "int": 0, "texts": [], "responses": []}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a stage made."""

    datasets: Mapping[Dataset, Iterable[Row]]
    """Rows of each file; a `RowSpool` where they may be many."""
    counts: Mapping[str, Mapping[str, int]]
    """Step -> status -> rows."""
    usage: Mapping[str, Sequence[int]]
    """Model -> calls, prompt tokens, completion tokens."""
    notes: Sequence[str] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)


def ok_rows(folder: str, dataset: Dataset) -> NamedRows:
    """Rows of a finished run that came through, as a stream that may be read more than once."""
    return NamedRows(folder, storage.join("data", f"{dataset}.parquet"), status="ok")


def schema(dataset: Dataset) -> pa.Schema:
    """The Arrow schema of one file."""
    import pyarrow as pa

    response = pa.struct([("model", pa.string()), ("text", pa.string())])
    types: dict[Kind, pa.DataType] = {
        "text": pa.string(),
        "int": pa.int64(),
        "texts": pa.list_(pa.string()),
        "responses": pa.list_(response),
    }
    return pa.schema([(name, types[kind]) for name, kind in COLUMNS[dataset].items()])


def shape_rows(rows: Iterable[Mapping[str, object]], dataset: Dataset) -> Iterator[Row]:
    """Rows with exactly the file's columns, in ascending order of id."""
    columns = COLUMNS[dataset]
    in_order = rows if isinstance(rows, RowSpool) else sorted(rows, key=lambda row: str(row["id"]))
    for row in in_order:
        yield {
            name: _EMPTY[kind] if row.get(name) is None else row[name]
            for name, kind in columns.items()
        }


def finish_run(run: Run, outcome: Outcome, *, teacher: TeacherConfig, stand_in: bool) -> Manifest:
    """Write every file, then the manifest."""
    run.check_lease()
    outputs = []
    for dataset, rows in outcome.datasets.items():
        path = storage.join("data", f"{dataset}.parquet")
        write_row_file(run.path(path), shape_rows(rows, dataset), schema(dataset))
        outputs.append(path)
    notes = list(outcome.notes)
    if stand_in:
        notes.insert(0, "made with the offline teacher, a rule-based stand-in for a language model")
    return run.finish(
        outputs=outputs,
        counts=outcome.counts,
        cost=cost_of(outcome.usage, teacher, stand_in=stand_in),
        metrics=outcome.metrics,
        notes=notes,
    )


def cost_of(usage: Mapping[str, Sequence[int]], teacher: TeacherConfig, *, stand_in: bool) -> Cost:
    """What the answers behind the rows cost; answers from the ledger are part of it."""
    by_model = {}
    for model, counts in sorted(usage.items()):
        usd = usage_usd({model: list(counts)}, teacher)
        by_model[model] = ModelCost(
            num_calls=counts[0],
            prompt_tokens=counts[1],
            completion_tokens=counts[2],
            usd=None if usd is None else float(usd),
        )
    prices = [cost.usd for cost in by_model.values()]
    known = [usd for usd in prices if usd is not None]
    return Cost(
        num_calls=sum(cost.num_calls for cost in by_model.values()),
        prompt_tokens=sum(cost.prompt_tokens for cost in by_model.values()),
        completion_tokens=sum(cost.completion_tokens for cost in by_model.values()),
        usd=sum(known) if prices and len(known) == len(prices) else None,
        stand_in=stand_in,
        by_model=by_model,
    )


def status_counts(rows: Iterable[Row]) -> dict[str, int]:
    """Counts by status of one step's rows; see `moss.lineage.count_statuses`."""
    return rows.counts() if isinstance(rows, RowSpool) else count_statuses(rows)


def without_usage(row: Row) -> Row:
    """The row less its transport column."""
    return {name: value for name, value in row.items() if name != USAGE}
