"""The Grafana dashboard asks for nothing that the code does not export, and forgets nothing."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from moss.live_metrics import ENDPOINT_SERIES, SERVICE_SERIES, exported_names
from moss.metrics import PROMETHEUS_METRICS, prometheus_name

FILE = Path(__file__).resolve().parents[2] / "platform" / "dashboards" / "moss.json"
_NAME = re.compile(r"\bray_[a-z0-9_]+")


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return loaded


def queries(dashboard: dict[str, Any]) -> Iterator[str]:
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]["query"]


def test_every_name_that_is_queried_is_exported(dashboard: dict[str, Any]) -> None:
    asked = {name for query in queries(dashboard) for name in _NAME.findall(query)}
    assert asked - exported_names() == set()


def test_every_series_has_a_panel(dashboard: dict[str, Any]) -> None:
    asked = {name for query in queries(dashboard) for name in _NAME.findall(query)}
    for series in (*SERVICE_SERIES, *ENDPOINT_SERIES):
        assert asked & set(series.exported), series.name
    assert {f"ray_{prometheus_name(name)}" for name in PROMETHEUS_METRICS} <= asked


def test_labels_in_queries_are_those_of_their_series(dashboard: dict[str, Any]) -> None:
    labels = {name: series.labels for series in (*SERVICE_SERIES, *ENDPOINT_SERIES)
              for name in series.exported}  # fmt: skip
    for query in queries(dashboard):
        by = re.search(r"by \(([^)]*)\)", query)
        known = {label for name in _NAME.findall(query) for label in labels.get(name, ("run_id",))}
        assert set(by[1].split(", ") if by else ()) <= known | {"le"}, query


def test_panels_have_their_own_ids_and_places_and_the_datasource_of_the_variable(
    dashboard: dict[str, Any],
) -> None:
    assert dashboard["uid"] == "moss"
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    cells = Counter(
        (x, y)
        for panel in dashboard["panels"]
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    )
    assert max(cells.values()) == 1
    assert max(x for x, _ in cells) < 24
    for panel in dashboard["panels"]:
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}"
            assert panel["description"]
            refs = [target["refId"] for target in panel["targets"]]
            assert len(set(refs)) == len(refs) > 0
            for target in panel["targets"]:
                assert target["expr"].count("(") == target["expr"].count(")")
                assert target["datasource"]["uid"] == "${datasource}"
