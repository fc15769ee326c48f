"""Reports of real small runs: they add up, hold the paper's figures, and load nothing."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path

import pytest

from moss import storage
from moss.config.synthesis import SynthesizePromptsConfig
from moss.errors import DataError
from moss.ledger import Bill
from moss.lineage import load_manifest
from moss.recipes import Row
from moss.reporting.blocks import Histogram, MeterChart, Table
from moss.reporting.paper_tables import TABLE_3_PROMPTS, TABLE_3_SEEDS, TABLE_5
from moss.reporting.run_page import render_report
from moss.reporting.run_report import STAND_IN_NOTE, RunReport, make_report
from moss.seeds import SEED_COUNTS
from moss.spend import calls_of
from moss.synthesis_rows import Outcome
from tests.moss.reporting.conftest import Road

RUNS = ("warmup", "collected", "prompts", "conversations", "tools", "preferences")


def report_of(road: Road, run_id: str) -> RunReport:
    text = (road.workspace / run_id / "report.json").read_text(encoding="utf-8")
    return RunReport.model_validate_json(text)


def page_of(road: Road, run_id: str) -> str:
    return (road.workspace / run_id / "report.html").read_text(encoding="utf-8")


def rows_of(road: Road, run_id: str) -> list[Row]:
    files = sorted((road.workspace / run_id / "data").glob("*.parquet"))
    return [row for file in files for row in storage.read_rows(str(file))]


def table(report: RunReport, section: str) -> Table:
    (found,) = [s for s in report.sections if s.title.startswith(section)]
    return next(block for block in found.blocks if isinstance(block, Table))


@pytest.mark.parametrize("run_id", RUNS)
def test_every_step_adds_up_and_agrees_with_the_manifest(road: Road, run_id: str) -> None:
    report = report_of(road, run_id)
    manifest = load_manifest(str(road.workspace / run_id))
    assert [step.step for step in report.steps]
    for step in report.steps:
        assert step.rows_in == step.ok + step.failed + step.filtered + step.skipped
        counted = manifest.counts[step.step]
        assert (step.ok, step.failed) == (counted.ok, counted.failed)
    assert STAND_IN_NOTE in report.notes


@pytest.mark.parametrize("run_id", RUNS)
def test_spend_is_that_of_the_manifest_and_of_the_rows(road: Road, run_id: str) -> None:
    report = report_of(road, run_id)
    cost = load_manifest(str(road.workspace / run_id)).cost
    assert cost is not None
    assert sum(row.num_calls for row in report.spend) == cost.num_calls > 0
    assert sum(row.prompt_tokens for row in report.spend) == cost.prompt_tokens
    if run_id == "preferences":  # its judge has no price
        assert report.usd is None
        assert {row.model for row in report.spend if row.usd is None} == {"gpt-4"}
        return
    # 7 prompt and 5 answer tokens a call, at 2.5 and 10 dollars a million
    assert report.usd == cost.num_calls * Decimal("0.0000675")
    by_row = sum(Decimal(str(row["cost_usd"])) for row in rows_of(road, run_id))
    assert abs(by_row - report.usd) < Decimal("1e-9")


def test_each_row_names_its_templates_and_keys(road: Road) -> None:
    for run_id in RUNS:
        for row in rows_of(road, run_id):
            calls = calls_of(row)
            assert isinstance(row["ledger_keys"], list)
            assert len(calls) == len(row["ledger_keys"])
            assert all(re.fullmatch(r"\w+\.(en|zh)@\d+", call.template) for call in calls)
    (first, *_) = [row for row in rows_of(road, "prompts") if row["source"] == "synthetic"]
    (call,) = calls_of(first)
    assert call.shared_by > 1


def test_the_papers_tables_stand_beside_the_runs_figures(road: Road) -> None:
    rows = {row[0]: row for row in table(report_of(road, "warmup"), "Table 3").rows}
    assert rows["helpfulness en"] == ("helpfulness en", "70", "20", "70", "419,049")
    assert rows["harmlessness en"] == ("harmlessness en", "0", "2", "0", "38,873")
    aligned = {row[0]: row for row in table(report_of(road, "prompts"), "Table 5").rows}
    assert aligned["honesty"] == ("honesty", "4", "2", "6", "20.0 %", "4,973", "0.5 %")
    use_cases = table(report_of(road, "collected"), "Table 4")
    assert use_cases.rows[0][0] == "Open QA"
    assert use_cases.rows[0][-1] == "53.1 %"


def test_the_papers_figures_add_up() -> None:
    seeds = {(c, lang): n for c, by in TABLE_3_SEEDS.items() for lang, n in by.items() if n}
    assert seeds == SEED_COUNTS
    assert sum(sum(by.values()) for by in TABLE_3_PROMPTS.values()) == 1_161_137
    assert sum(TABLE_5.values()) == 1_059_847


def test_quotas_turns_and_biases_are_reported(road: Road) -> None:
    meters = [
        block
        for section in report_of(road, "prompts").sections
        for block in section.blocks
        if isinstance(block, MeterChart)
    ]
    assert {m.label: (m.value, m.goal) for m in meters[0].meters} == {
        "complex_instruction-en": (24, 24),
        "honesty-en": (4, 4),
        "honesty-zh": (2, 2),
    }
    (turns, *_) = [
        block
        for section in report_of(road, "conversations").sections
        for block in section.blocks
        if isinstance(block, Histogram)
    ]
    assert sum(sum(series.counts) for series in turns.series) == 30
    assert sum(turns.expected) == pytest.approx(30)
    metrics = report_of(road, "preferences").metrics
    judged = [row for row in rows_of(road, "preferences") if row.get("label")]
    asked = [row for row in judged if row["status"] == "ok"]
    flips = sum(row["verdict_ab"] == row["verdict_ba"] != "tie" for row in asked)
    assert metrics["judge/flip_rate"] == pytest.approx(flips / len(asked))
    first = sum([row["verdict_ab"], row["verdict_ba"]].count("A") for row in asked)
    second = sum([row["verdict_ab"], row["verdict_ba"]].count("B") for row in asked)
    assert metrics["judge/first_seat_share"] == pytest.approx(first / (first + second))


def test_the_quotas_of_tools_account_for_every_row_that_ended(road: Road) -> None:
    report = report_of(road, "tools")
    steps = {step.step: step for step in report.steps}
    (bucket, *counts) = table(report, "Quotas").rows[0]
    assert bucket == "calculator-en"
    _, _, ok, filtered, skipped, failed = map(int, counts)
    conversations = steps["tool_conversation"]
    assert ok == conversations.ok
    assert filtered == steps["select"].filtered + conversations.filtered
    assert skipped == steps["select"].skipped > 0
    assert failed == steps["extend"].failed + steps["select"].failed + conversations.failed


def test_reply_tokens_and_words_are_of_the_same_replies(road: Road) -> None:
    for run_id in ("conversations", "tools"):
        lengths = {row[0]: int(row[1]) for row in table(report_of(road, run_id), "Figure 4").rows}
        assert lengths["reply tokens, en"] == lengths["reply words, en"] > 0
    kinds = [row["kind"] for row in rows_of(road, "tools") if row.get("kind")]
    assert "negative" in kinds  # another run wrote its replies


def test_pairs_are_told_apart_and_add_up(road: Road) -> None:
    report = report_of(road, "preferences")
    judge = next(step for step in report.steps if step.step == "judge")
    labels = {row[0]: int(row[1]) for row in table(report, "Labels").rows}
    assert sum(labels.values()) == judge.rows_in
    assert labels.get("identical responses, skipped", 0) == judge.skipped
    assert [(item.file, item.rows, item.ok) for item in report.files] == [
        ("responses", judge.rows_in // 15, judge.rows_in // 15),
        ("pairs", judge.rows_in, judge.ok),
    ]
    assert f"Of {judge.rows_in:,} pairs {judge.ok:,} were judged" in page_of(road, "preferences")


class Checker(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [str(value) for name, value in attrs if name in ("href", "src")]
        if tag not in ("meta", "br"):
            self.opened.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ("rect", "line")

    def handle_endtag(self, tag: str) -> None:
        assert self.opened.pop() == tag


@pytest.mark.parametrize("run_id", RUNS)
def test_the_page_is_whole_and_loads_nothing(road: Road, run_id: str) -> None:
    page = page_of(road, run_id)
    assert not re.search(r"https?:|@import|url\(|<script", page)
    assert "default-src &#x27;none&#x27;" in page
    checker = Checker()
    checker.feed(page)
    assert not checker.opened
    assert set(checker.links) == {"rows.html", "report.json"}
    assert all((road.workspace / run_id / link).exists() for link in checker.links)


def outcome(**changes: object) -> Outcome:
    values: dict[str, object] = {
        "datasets": {},
        "counts": {"select": {"ok": 1, "failed": 0, "filtered": 1, "skipped": 0}},
        "rows_in": {"select": 2},
        "usage": {},
        **changes,
    }
    return Outcome(**values)  # type: ignore[arg-type]


def row(row_id: str, status: str, **values: object) -> Row:
    common: Row = {"step": "select", "reason": "", "text": "<b>x</b>", "calls": []}
    return {
        "id": row_id,
        "status": status,
        "language": "en",
        "category": "code",
        **common,
        **values,
    }


CONFIG = SynthesizePromptsConfig(run_id="r", quotas={"honesty": {"en": 1}})
WHOLE = [row("a", "ok"), row("b", "filtered", reason="near duplicate of code-en-0000001-2")]


def small_report(rows: list[Row], made: Outcome, bill: Bill | None = None) -> RunReport:
    return make_report(
        CONFIG,
        "synthesize_prompts",
        made,
        {"prompts": rows},
        teacher=CONFIG.teacher,
        stand_in=False,
        bill=bill or Bill(),
    )


def test_rows_that_were_dropped_or_doubled_are_an_error() -> None:
    assert small_report(WHOLE, outcome()).num_ok == 1
    with pytest.raises(DataError, match="took 3 rows but accounts for 2"):
        small_report(WHOLE, outcome(rows_in={"select": 3}))
    with pytest.raises(DataError, match="1 filtered were counted, the files hold 0"):
        small_report(WHOLE[:1], outcome())
    with pytest.raises(DataError, match="1 came through 'select', the files hold 2"):
        small_report([row("c", "ok"), *WHOLE], outcome())
    with pytest.raises(DataError, match="rows went into"):
        small_report(WHOLE, outcome(rows_in={}))


def test_spend_that_does_not_add_up_is_an_error() -> None:
    call = {
        "step": "extend", "call": "extend", "model": "m", "template": "t.en@1",
        "prompt_tokens": 7, "completion_tokens": 5, "shared_by": 2,
    }  # fmt: skip
    shared = [{**item, "calls": [call]} for item in WHOLE]
    assert small_report(shared, outcome(usage={"m": [1, 7, 5]})).spend[0].num_calls == 1
    with pytest.raises(DataError, match="rows that share an answer are missing"):
        small_report([shared[0], WHOLE[1]], outcome(usage={"m": [1, 7, 5]}))
    with pytest.raises(DataError, match="counted None"):
        small_report(shared, outcome())


def test_calls_without_an_answer_have_lines_of_their_own_below_the_sum() -> None:
    lost = {"m": [2, 700, 300]}
    report = small_report(WHOLE, outcome(), Bill(lost, in_flight=lost))
    assert [row.model_dump() for row in report.without_answer] == [
        {
            "step": "sent, not answered", "model": "m", "num_calls": 2,
            "prompt_tokens": 700, "completion_tokens": 300, "usd": None,
        }
    ]  # fmt: skip
    page = render_report(report, rows_page=None)
    assert "sent, not answered · m" in page
    assert "at most 700" in page
    assert "and at most 1,000 without an answer" in page
    assert "not answered" not in render_report(small_report(WHOLE, outcome()), rows_page=None)


def test_reasons_are_grouped_with_examples_and_escaped() -> None:
    report = small_report(WHOLE, outcome())
    (reason,) = report.reasons
    assert (reason.reason, reason.count) == ("near duplicate of …", 1)
    assert reason.examples[0].id == "b"
    page = render_report(report, rows_page=None)
    assert "&lt;b&gt;x&lt;/b&gt;" in page
    assert "<b>x</b>" not in page
    assert "stand-in" not in page


def test_equal_work_gives_equal_reports(road: Road, tmp_path: Path) -> None:
    before = json.loads((road.workspace / "warmup" / "report.json").read_text(encoding="utf-8"))
    again = Road(tmp_path, road._endpoint)
    again.prompts(
        "warmup",
        quotas={"helpfulness": {"en": 20}, "honesty": {"en": 6}},
        red_team={"en": 2},
        self_instruct={"seed_only_iterations": 1, "round_iterations": 2, "max_iterations": 12},
    )
    assert json.loads((tmp_path / "warmup" / "report.json").read_text(encoding="utf-8")) == before
    pages = [(r / "warmup" / "rows.html").read_text() for r in (tmp_path, road.workspace)]
    assert pages[0] == pages[1]
