import json
from collections import Counter
from pathlib import Path

import pytest

from moss import storage
from moss.collection import SimulateVisitor, clean, visitor_rows
from moss.config.synthesis import DedupConfig, SamplingConfig, VisitorsConfig
from moss.errors import DataError
from moss.recipes import Row
from moss.served_prompts import read_served_prompts
from tests.moss.recipe_runner import run_recipe

SERVED: list[dict[str, object]] = [
    {"text": "What is the capital of France?", "consent": True},
    {"text": "A secret of mine, please.", "consent": "none"},
    {"text": "what is the capital of  france?", "consent": "train"},
    {"text": "Hi", "consent": True},
    {"text": "Write to jane@example.org for me", "consent": True},
]


def test_jsonl_and_parquet_sources_read_alike(tmp_path: Path) -> None:
    jsonl, parquet = tmp_path / "p.jsonl", str(tmp_path / "p.parquet")
    rows = [{**row, "consent": str(row["consent"])} for row in SERVED]
    jsonl.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    storage.write_rows(parquet, rows)
    assert read_served_prompts(str(jsonl)) == read_served_prompts(parquet)
    assert [row["consent"] for row in read_served_prompts(parquet)] == [True, False] + [True] * 3


def test_an_unreadable_source_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.sqlite").write_bytes(b"")
    with pytest.raises(DataError, match="not a store of the chat service"):
        read_served_prompts(str(tmp_path / "x.sqlite"))
    with pytest.raises(DataError, match=r"is not \.parquet"):
        read_served_prompts(str(tmp_path / "x.csv"))


def test_every_served_prompt_is_accounted_for_and_frequency_survives_dedup(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in SERVED), encoding="utf-8")
    cleaned = clean(read_served_prompts(str(path)), DedupConfig())
    assert len(cleaned) == len(SERVED)
    outcomes = [(row["status"], row["step"]) for row in cleaned]
    assert Counter(outcomes) == {
        ("ok", "clean"): 2,
        ("filtered", "consent"): 1,
        ("filtered", "dedup"): 1,
        ("filtered", "length"): 1,
    }
    assert cleaned[0]["frequency"] == 2
    assert cleaned[1]["text"] == ""
    assert cleaned[4]["text"] == "Write to <email> for me"


def test_visits_follow_table_4_and_are_the_same_every_time() -> None:
    rows = visitor_rows(VisitorsConfig(num_prompts=3000), seed=1)
    assert rows == visitor_rows(VisitorsConfig(num_prompts=3000), seed=1)
    shares = Counter(row["topic"] for row in rows)
    assert shares["Open QA"] / 3000 == pytest.approx(0.531, abs=0.03)
    assert sum(bool(row["consent"]) for row in rows) / 3000 == pytest.approx(0.95, abs=0.02)
    assert {row["source"] for row in rows} == {"simulated"}


def test_a_visitor_asks_one_prompt_of_the_topic_in_the_language() -> None:
    visit: Row = {"id": "v", "language": "zh", "topic": "Code", "consent": True}
    recipe = SimulateVisitor("m", SamplingConfig())
    row, (body,) = run_recipe(recipe, visit, lambda _: " 写一个函数？\n[Question 2]: x")
    assert row["text"] == "写一个函数？"
    assert "Python函数" in str(body["messages"])
