import argparse
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks import synthesis_scale
from benchmarks.instant_teacher import FRESH, PROMPTS, InstantClient, write_prompts
from benchmarks.synthesis_scale import NUM_BUCKETS, Meter, made_config, run_stage
from moss import teacher
from moss.config.synthesis import DedupConfig, SelfInstructConfig
from moss.seeds import load_seeds
from moss.selfinstruct import Coordinator, parse_prompts, render_examples
from moss.synthesis_plan import group_seeds
from tests.local_session import LocalSession


@pytest.mark.parametrize("language", ["en", "zh"])
def test_what_deduplication_keeps_of_the_stand_ins_prompts_is_known(language: str) -> None:
    quota = 80 * FRESH
    bucket = f"honesty-{language}"
    plan = Coordinator(
        {bucket: quota},
        group_seeds([asdict(seed) for seed in load_seeds()], {bucket: quota}),
        config=SelfInstructConfig(round_iterations=20),
        dedup=DedupConfig(),
        seed=1,
    )
    counts: Counter[str] = Counter()
    while planned := plan.plan_round():
        for item in planned:
            answer = write_prompts(render_examples(item.examples), seed=item.number)
            texts = parse_prompts(answer, count=PROMPTS, is_truncated=False)
            assert len(texts) == PROMPTS
            found = plan.collect(item, texts)
            counts.update(f"{c.status} {c.reason.partition(' of ')[0]}" for c in found)
        plan.end_round({bucket: 1})
    assert counts["ok "] == quota
    repeats = counts["filtered exact duplicate"] + counts["filtered near duplicate"]
    assert repeats == 80 * (PROMPTS - FRESH)
    assert counts["filtered near duplicate"] > 20
    assert set(counts) <= {
        "ok ",
        "filtered exact duplicate",
        "filtered near duplicate",
        "skipped quota met",
    }


def test_the_rehearsed_stage_finishes_with_the_rows_that_are_known_beforehand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 30
    num_rows = NUM_BUCKETS * calls * PROMPTS
    args = argparse.Namespace(rows=num_rows, round_iterations=10, callers=1)
    config = made_config(args, str(tmp_path))

    @contextmanager
    def local_session(*_: object, **__: object) -> Iterator[LocalSession]:
        yield LocalSession(config, str(tmp_path / "ledger"), seed=config.seed)

    monkeypatch.setattr(synthesis_scale, "teacher_session", local_session)
    monkeypatch.setattr(teacher, "Connection", lambda *_: InstantClient())
    meter = Meter(num_rows)
    select = run_stage(config, meter).counts["select"]
    repeats = NUM_BUCKETS * calls * (PROMPTS - FRESH)
    assert (select.ok, select.filtered) == (NUM_BUCKETS * calls * FRESH, repeats)
    assert meter.num_rows == select.ok + select.filtered + select.skipped
    assert len(meter.ends) == 10


def test_time_per_row_is_that_of_the_tenth_that_ends_at_the_mark() -> None:
    meter = Meter(num_expected=100)
    meter.ends = [float(n) for n in range(1, 10)] + [11.0]
    meter.rows_at = [10 * n for n in range(1, 11)]
    assert [meter.us_per_row(mark) for mark in (10, 50, 100)] == [1e5, 1e5, 2e5]
