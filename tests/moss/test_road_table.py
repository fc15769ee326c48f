"""What a road shows: a line per change in logs, a table on a terminal."""

import io

import pytest
from rich.console import Console

from moss.manifest import Cost
from moss.road_runs import StageView, describe_cost
from moss.road_table import ChangeLines, print_stages, stage_table


def test_logs_get_one_line_per_change() -> None:
    stream = io.StringIO()
    lines = ChangeLines(stream, interval_s=3600)
    waiting = StageView("MOSS-base", "pretrain", "waiting")
    running = StageView("MOSS-base", "pretrain", "running", seconds=1.0)
    done = StageView("MOSS-base", "pretrain", "done", num_rows=1200, seconds=75.0)
    for view in (waiting, waiting, running, running, done, done):
        lines.show([view])
    assert stream.getvalue().splitlines() == [
        "[1/1] MOSS-base (pretrain) running: 0:01",
        "[1/1] MOSS-base (pretrain) done: 1,200 rows written, 1:15",
    ]


def test_the_table_fits_a_narrow_terminal() -> None:
    out = io.StringIO()
    views = [
        StageView(
            "conversations-warmup", "synthesize_conversations", "running", None, 3.0, "", "x" * 99
        ),
        StageView("tokenizer", "train_tokenizer", "skipped", 5, 7.0, "12 calls (stand-in)"),
    ]
    Console(file=out, width=80).print(stage_table("road", views, width=80))
    assert "conversations-warmup" in out.getvalue()
    assert "running" in out.getvalue()
    assert max(map(len, out.getvalue().splitlines())) <= 80


def test_a_file_gets_the_whole_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = io.StringIO()
    spend, note = "1,234,567 calls, price unknown", "x" * 150
    view = StageView("p" * 40, "label_preferences", "stopped", 3_900, 3.0, spend, note)
    print_stages("road", [view], out)
    (line,) = [line for line in out.getvalue().splitlines() if "stopped" in line]
    assert [cell.strip() for cell in line.split("│")[1:-1]] == [
        "p" * 40, "stopped", "3,900", "0:03", spend, note
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("cost", "told"),
    [
        (None, ""),
        (Cost(num_calls=1200, stand_in=True), "1,200 calls (stand-in)"),
        (Cost(num_calls=3, usd=0.5), "3 calls, $0.50"),
        (Cost(num_calls=3), "3 calls, price unknown"),
    ],
)
def test_spend_says_what_it_is(cost: Cost | None, told: str) -> None:
    assert describe_cost(cost) == told
