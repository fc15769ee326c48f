"""A run that keeps nothing is an honest run: its report, its page and its viewer hold zeros."""

from __future__ import annotations

import json
import math
import re

import pytest

from moss.config.labelling import LabelPreferencesConfig
from moss.config.synthesis import (
    CollectPromptsConfig,
    SynthesisConfig,
    SynthesizeConversationsConfig,
    SynthesizePromptsConfig,
    SynthesizeToolConversationsConfig,
)
from moss.ledger import Bill
from moss.recipes import Row
from moss.reporting.ancestors import Place
from moss.reporting.blocks import (
    BarChart,
    Block,
    ComparisonChart,
    Histogram,
    MeterChart,
    Section,
    ShareChart,
    Table,
)
from moss.reporting.page import section_html
from moss.reporting.run_page import render_report
from moss.reporting.run_report import make_report
from moss.reporting.viewer import make_viewer
from moss.synthesis_rows import Dataset, Outcome

STAGES: list[tuple[SynthesisConfig, tuple[Dataset, ...]]] = [
    (SynthesizePromptsConfig(run_id="r", quotas={"honesty": {"en": 1}}), ("prompts",)),
    (CollectPromptsConfig(run_id="r"), ("collected",)),
    (SynthesizeConversationsConfig(run_id="r", prompts="p"), ("conversations",)),
    (
        SynthesizeToolConversationsConfig(
            run_id="r", conversations="c", quotas={"calculator": {"en": 1}}
        ),
        ("queries", "tool_conversations"),
    ),
    (LabelPreferencesConfig(run_id="r", conversations="c", checkpoint="s"), ("responses", "pairs")),
]
NO_ROWS: list[Block] = [
    Table(title="none", columns=("a", "b"), rows=()),
    BarChart(title="none", unit="share", bars=()),
    ShareChart(title="none", parts=("win", "lose"), rows=()),
    MeterChart(title="none", meters=()),
    ComparisonChart(title="none", reference_name="paper", rows=()),
    Histogram(title="none", unit="words", bins=("0", "1"), series=()),
    Histogram(title="none", unit="words", bins=("0",), series=(), expected=(0.0,)),
    Histogram(title="none", unit="words", bins=(), series=()),
]


@pytest.mark.parametrize(("config", "datasets"), STAGES, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("rows_in", [0, 2])
def test_every_stage_reports_on_a_run_that_keeps_nothing(
    config: SynthesisConfig, datasets: tuple[Dataset, ...], rows_in: int
) -> None:
    counts = {"first": {"ok": 0, "failed": 0, "filtered": rows_in, "skipped": 0}}
    outcome = Outcome(datasets={}, counts=counts, rows_in={"first": rows_in}, usage={})
    dropped: list[Row] = [
        {
            "id": f"row-{number}", "step": "first", "status": "filtered", "reason": "consent",
            "text": "", "calls": [], "category": "", "language": "", "source": "user",
            "use_case": "", "kind": "", "tool": "", "split": "", "responses": [],
        }
        for number in range(rows_in)
    ]  # fmt: skip
    files = {name: dropped if name == datasets[0] else [] for name in datasets}
    report = make_report(
        config, "stage", outcome, files, teacher=config.teacher, stand_in=False, bill=Bill()
    )
    assert report.num_ok == 0
    assert all(map(math.isfinite, report.metrics.values()))
    page = render_report(report, rows_page="rows.html")
    assert not re.search(r"\b(nan|inf)\b", page)
    viewer = make_viewer(
        Place("r", (), ()), datasets, lambda name: iter(files[name]), stage="stage", notes=()
    )
    document = viewer.partition('id="data">')[2].partition("</script>")[0]
    assert json.loads(document)["num_rows"] == rows_in


@pytest.mark.parametrize("block", NO_ROWS, ids=lambda block: block.kind)
def test_every_block_draws_nothing_where_nothing_was_counted(block: Block) -> None:
    drawn = section_html(Section(title="Empty", blocks=(block,)))
    assert ">none" in drawn
    assert not re.search(r"\b(nan|inf)\b", drawn)
