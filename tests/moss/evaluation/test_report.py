"""The report shows every number with its interval, hides no missed target and loads nothing."""

import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from moss.config.evaluation import EvaluateConfig
from moss.errors import ConfigError
from moss.evaluation.comparisons import STAND_IN_NOTE
from moss.evaluation.findings import Findings, make_report
from moss.evaluation.preference import PairAccuracy
from moss.evaluation.quality_control import quality_control
from moss.evaluation.report import Report, load_report, print_report, save_report
from moss.evaluation.report_html import render_html
from moss.evaluation.statistics import Estimate, wilson_interval, win_rate
from moss.evaluation.tool_turns import ToolBenefit, ToolControl
from moss.types import ToolName

TOOL: ToolName = "calculator"


def findings(*, recall: int = 95, stand_in: bool = True) -> Findings:
    share = wilson_interval
    pairs = [("MOSS-PAT", "MOSS-SFT"), ("MOSS-PPO", "MOSS-SFT"), ("MOSS-PAT", "MOSS-PPO")]
    wins = {pair: win_rate(60, 10, 30) for pair in pairs}
    return Findings(
        accuracy=PairAccuracy(Estimate(0.93, 0.9, 0.95, 400), {"<a> / b": share(93, 100)}, 12),
        quality=quality_control({0: [-1.0, 0.0], 100: [1.0, 2.0]}, seed=0),
        judged=wins,
        scored=wins,
        control={TOOL: ToolControl(share(recall, 100), share(3, 100), share(0, 100))},
        benefit={
            TOOL: ToolBenefit(
                share(90, 100), share(10, 100), 80, 0, 1e-9,
                {"not invoked": 5, "wrong invocation": 5, "poor result": 0, "poor integration": 0},
            )
        },
        judge="gpt-4",
        stand_in=stand_in,
        notes=("Two prompts & one <tag> left out.",),
    )  # fmt: skip


def report(*, recall: int = 95) -> Report:
    return make_report(findings(recall=recall), EvaluateConfig())


def test_a_missed_target_falls_short_in_every_form() -> None:
    missed = report(recall=50)
    assert [target.name for target in missed.targets if not target.met] == [
        "calculator: called when on"
    ]
    out = io.StringIO()
    print_report(missed, Console(file=out, width=160))
    assert "falls short" in out.getvalue()
    assert "falls short" in render_html(missed)
    assert report().num_met == len(report().targets) == 8


def test_a_win_whose_interval_touches_one_half_does_not_beat() -> None:
    close = findings()
    close = Findings(
        **{name: getattr(close, name) for name in Findings.__slots__ if name != "judged"},
        judged=dict.fromkeys(close.judged, win_rate(31, 0, 29)),
    )
    verdicts = {t.name: t.met for t in make_report(close, EvaluateConfig()).targets}
    assert not verdicts["MOSS-PAT beats MOSS-SFT"]


def test_a_stand_in_is_named_first_and_only_then() -> None:
    assert report().notes[0] == STAND_IN_NOTE
    assert STAND_IN_NOTE not in make_report(findings(stand_in=False), EvaluateConfig()).notes
    assert STAND_IN_NOTE in render_html(report())


def test_the_page_loads_nothing_and_escapes_what_it_shows() -> None:
    page = render_html(report())
    assert not re.search(r"https?:|//[a-z]|src=|href=|@import|url\(", page)
    assert "<script" not in page
    assert "&lt;a&gt; / b" in page

    class Checker(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.opened: list[str] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag not in ("meta", "rect", "line"):
                self.opened.append(tag)

        def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert tag in ("rect", "line")

        def handle_endtag(self, tag: str) -> None:
            assert self.opened.pop() == tag

    checker = Checker()
    checker.feed(page)
    assert not checker.opened
    assert page.count("<svg") == 5


def test_every_share_stands_with_its_interval_and_sample_size() -> None:
    for table in report().tables:
        for row in table.rows:
            shares = [cell for cell in row if "%" in cell]
            assert all(re.search(r"\[[\d.]+, [\d.]+\]", cell) for cell in shares), row
            assert not shares or {"n", "win"} & set(table.columns)
    for target in report().targets:
        assert "Spearman" in target.measured or re.search(r"\(n=\d+\)", target.measured)


def test_a_saved_report_is_read_back(tmp_path: Path) -> None:
    path = str(tmp_path / "report.json")
    save_report(report(), path)
    assert load_report(path) == report()
    Path(path).write_text('{"title": "x"}', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"report\.json"):
        load_report(path)
