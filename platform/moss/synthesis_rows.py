"""What the synthesis stages write: row schemas, and accounts of every row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from moss import storage
from moss.config.teacher import TeacherConfig
from moss.lineage import Cost, count_statuses
from moss.manifest import ModelCost
from moss.recipes import USAGE, Row, usage_usd
from moss.row_files import NamedRows
from moss.row_spool import RowSpool
from moss.spend import CallRecord, row_cost

if TYPE_CHECKING:
    import pyarrow as pa

Dataset = Literal[
    "prompts", "collected", "conversations", "queries", "tool_conversations", "responses", "pairs"
]
Kind = Literal["text", "int", "texts", "responses", "calls"]

_COMMON: dict[str, Kind] = {
    "id": "text",
    "status": "text",
    "step": "text",
    "reason": "text",
    "attempts": "int",
    "parents": "texts",
    "model": "text",
    "ledger_keys": "texts",
    "calls": "calls",
    "cost_usd": "text",
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
_PROMPT: dict[str, Kind] = {
    "text": "text",
    "language": "text",
    "category": "text",
    "source": "text",
}
COLUMNS: dict[Dataset, dict[str, Kind]] = {
    "prompts": {**_COMMON, **_PROMPT},
    "collected": {
        **_COMMON,
        **_PROMPT,
        "use_case": "text",
        "difficulty": "int",
        "frequency": "int",
    },
    "conversations": {**_COMMON, **_CONVERSATION},
    "queries": {**_COMMON, **_PROMPT},
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
hold what was known when it failed, else an empty text, 0 or an empty list. `calls` says which model
and template each answer behind the row came from (`moss.spend.CallRecord`), in the order of
`ledger_keys`; `cost_usd` is their price as a decimal number, empty where a price is unknown."""

_EMPTY: dict[Kind, object] = {"text": "", "int": 0, "texts": [], "responses": [], "calls": []}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a stage made."""

    datasets: Mapping[Dataset, Iterable[Row]]
    """Rows of each file; a `RowSpool` where they may be many."""
    counts: Mapping[str, Mapping[str, int]]
    """Step -> status -> rows."""
    rows_in: Mapping[str, int]
    """Step -> rows that entered it, counted on their way in."""
    usage: Mapping[str, Sequence[int]]
    """Model -> calls, prompt tokens, completion tokens."""
    notes: Sequence[str] = ()
    num_seeds: Mapping[str, int] = field(default_factory=dict)
    """Bucket -> seeds that its examples were drawn from; stages without Self-Instruct have none."""
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Counted:
    """Rows on their way into a step, counted as they pass; the other side of its accounts."""

    rows: Iterable[Row]
    num_rows: int = 0

    def __iter__(self) -> Iterator[Row]:
        for row in self.rows:
            self.num_rows += 1
            yield row


def ok_rows(folder: str, dataset: Dataset) -> NamedRows:
    """Rows of a finished run that came through, as a stream that may be read more than once."""
    return NamedRows(folder, storage.join("data", f"{dataset}.parquet"), status="ok")


def schema(dataset: Dataset) -> pa.Schema:
    """The Arrow schema of one file."""
    import pyarrow as pa

    response = pa.struct([("model", pa.string()), ("text", pa.string())])
    texts, numbers = CallRecord.TEXTS, CallRecord.NUMBERS
    call = pa.struct(
        [*((name, pa.string()) for name in texts), *((name, pa.int64()) for name in numbers)]
    )
    types: dict[Kind, pa.DataType] = {
        "text": pa.string(),
        "int": pa.int64(),
        "texts": pa.list_(pa.string()),
        "responses": pa.list_(response),
        "calls": pa.list_(call),
    }
    return pa.schema([(name, types[kind]) for name, kind in COLUMNS[dataset].items()])


def shape_rows(
    rows: Iterable[Mapping[str, object]], dataset: Dataset, teacher: TeacherConfig
) -> Iterator[Row]:
    """Rows with exactly the file's columns and their cost, in ascending order of id.

    A `RowSpool` is read as a stream; other rows are sorted in memory.
    """
    columns = COLUMNS[dataset]
    in_order = rows if isinstance(rows, RowSpool) else sorted(rows, key=lambda row: str(row["id"]))
    for row in in_order:
        shaped = {
            name: _EMPTY[kind] if row.get(name) is None else row[name]
            for name, kind in columns.items()
        }
        cost = row_cost(shaped, teacher)
        yield shaped | {"cost_usd": "" if cost is None else f"{cost.normalize():f}"}


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
