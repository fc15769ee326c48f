"""The viewer of rows: one page that opens from the run folder, rows and their lineage inside.

Nothing from the data is ever read as HTML: rows stand in the page as JSON, the script writes them
as text, and the content security policy runs no other script and loads nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence

from moss.recipes import Row
from moss.reporting.accounts import excerpt
from moss.reporting.ancestors import Ancestor, AncestorSearch, Place
from moss.reporting.page import asset, html_page
from moss.reporting.row_choice import Choice, choose_rows
from moss.spend import calls_of
from moss.synthesis_rows import Dataset

ROWS_HTML = "rows.html"
MAX_ROWS = 2_000
MAX_ANCESTORS = 6_000
MAX_BYTES = 16 * 2**20
"""Most JSON in one page; rows beyond it are left out, and the page says so."""


def make_viewer(
    place: Place,
    datasets: Sequence[Dataset],
    read: Callable[[Dataset], Iterator[Row]],
    *,
    stage: str,
    notes: Sequence[str],
    max_rows: int = MAX_ROWS,
    max_ancestors: int = MAX_ANCESTORS,
) -> str:
    """The page of a run's rows.

    Args:
        place: the run's files and inputs.
        datasets: its files.
        read: rows of one file, from the start at each call.
        notes: what a reader must know first.
    """
    choice = choose_rows(datasets, read, limit=max_rows)
    rows: list[tuple[Dataset, Row]] = []
    for dataset in datasets:
        chosen = choice.ids.get(dataset, frozenset())
        rows += [(dataset, row) for row in read(dataset) if row["id"] in chosen]
    rows = _within(rows, MAX_BYTES // 2)
    search = AncestorSearch(place, limit=max_ancestors)
    search.search(row for _, row in rows)
    return render_viewer(_document(place, rows, search, choice, stage=stage, notes=notes))


def render_viewer(document: Mapping[str, object]) -> str:
    """The page around a document of rows."""
    script = asset("rows.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    body = (
        asset("rows_body.html")
        + f'<script type="application/json" id="data">{embed(document)}</script>'
        + f"<script>{script}</script>"
    )
    title = f"{document['run_id']} · rows"
    return html_page(title, body, style=asset("rows.css"), policy=policy)


def embed(value: object) -> str:
    """JSON that no HTML parser mistakes for markup: `<`, `>` and `&` are escaped in strings."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for mark in "<>&\u2028\u2029":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return text


def _within(rows: list[tuple[Dataset, Row]], max_bytes: int) -> list[tuple[Dataset, Row]]:
    """As many rows as fit; short ones first, since one long row is worth many to nobody."""
    sizes = [len(json.dumps(row, ensure_ascii=False).encode()) for _, row in rows]
    kept: set[int] = set()
    total = 0
    for index in sorted(range(len(rows)), key=lambda index: (sizes[index], index)):
        total += sizes[index]
        if total > max_bytes:
            break
        kept.add(index)
    return [row for index, row in enumerate(rows) if index in kept]


def _document(
    place: Place,
    rows: Sequence[tuple[Dataset, Row]],
    search: AncestorSearch,
    choice: Choice,
    *,
    stage: str,
    notes: Sequence[str],
) -> dict[str, object]:
    numbers = {key: number for number, key in enumerate(search.found)}

    def links(row: Row, folder: str | None = None) -> list[list[object]]:
        """Id and number of each parent; no number where it was not found."""
        keys = search.parents(row, folder)
        ids = list(dict.fromkeys(map(str, _list(row.get("parents")))))
        return [
            [row_id, None if key is None else numbers.get(key)]
            for row_id, key in zip(ids, keys, strict=True)
        ]

    nodes = [_node(item, links(item.row, key[0])) for key, item in search.found.items()]
    kept = _bounded(nodes)
    return {
        "run_id": place.run_id,
        "stage": stage,
        "notes": list(notes),
        "datasets": list(choice.ids),
        "num_rows": choice.num_rows,
        "rows": [{**row, "dataset": dataset, "lineage": links(row)} for dataset, row in rows],
        "nodes": kept,
    }


def _node(ancestor: Ancestor, links: list[list[object]]) -> dict[str, object]:
    row = ancestor.row
    return {
        "run": ancestor.run_id,
        "id": row["id"],
        "text": excerpt(row),
        "lineage": links,
        **{name: row[name] for name in ("step", "source", "category", "language") if row.get(name)},
        "cost_usd": row.get("cost_usd", ""),
        "calls": [
            [call.model, call.template, call.shared_by, key]
            for call, key in zip(calls_of(row), _list(row.get("ledger_keys")), strict=False)
        ],
    }


def _bounded(nodes: list[dict[str, object]]) -> list[dict[str, object]]:
    """Nearest ancestors first, as many as fit; the script shows the ids of the others."""
    kept: list[dict[str, object]] = []
    total = 0
    for node in nodes:
        total += len(json.dumps(node, ensure_ascii=False).encode())
        if total > MAX_BYTES // 2:
            break
        kept.append(node)
    return kept


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
