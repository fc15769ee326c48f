"""A caller's batches, its end, and how many blocks it works on; without a cluster."""

import asyncio
import json
from pathlib import Path

import pytest

from actors.caller import (
    FATAL,
    MAX_TASKS,
    ROW,
    ROWS_AT_HAND_PER_SLOT,
    ROWS_AT_WORK_PER_SLOT,
    Caller,
    CallerSetup,
    as_batch,
    call_stage,
)
from benchmarks.synthesis_job import AskOnce
from moss.config.synthesis import CallerConfig
from moss.config.teacher import TeacherConfig
from moss.endpoint_limits import RunLimits
from moss.ledger import Ledger
from moss.limits import Budget
from moss.local_limits import LocalLimits
from moss.recipes import Calls, Recipe, Row
from moss.teacher import Endpoint
from tests.stub_endpoint import StubEndpoint, running


@pytest.mark.parametrize(
    ("concurrency", "callers", "block_rows"),
    [(64, 1, 256), (256, 1, 256), (256, 4, 32), (8, 1, 8), (1, 4, 256), (4096, 1, 1)],
)
def test_blocks_at_hand_cover_the_slots_of_a_caller(
    concurrency: int, callers: int, block_rows: int
) -> None:
    teacher = TeacherConfig(concurrency=concurrency, num_callers=callers)
    setup = CallerSetup(teacher, Endpoint("e"), ledger_folder="l", seed=0, run="r", budget=None)
    stage = call_stage(AskOnce(), setup, CallerConfig(block_rows=block_rows))
    assert 2 <= stage.num_tasks <= MAX_TASKS
    rows_at_hand = stage.num_tasks * block_rows
    wanted = ROWS_AT_HAND_PER_SLOT * concurrency / callers
    assert rows_at_hand >= min(wanted, MAX_TASKS * block_rows)


async def carry(caller: Caller, rows: list[Row]) -> list[Row]:
    batches = [batch async for batch in caller(as_batch(rows))]
    assert caller._teacher is not None
    await caller._teacher.close()
    return [json.loads(text) for batch in batches for text in batch[ROW]]


def make_caller(
    stub: StubEndpoint,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    recipe: Recipe | None = None,
    **teacher: object,
) -> Caller:
    """A caller whose limits are those of this process."""
    config = TeacherConfig.model_validate({"base_url": stub.base_url, "concurrency": 4, **teacher})

    def limits(config: TeacherConfig, **_: object) -> LocalLimits:
        return LocalLimits(RunLimits.of(config), Budget(tokens=config.budget_tokens, usd=None))

    monkeypatch.setattr("actors.caller.LeasedLimits", limits)
    setup = CallerSetup(config, Endpoint("e"), str(folder), seed=0, run="r", budget=None)
    return Caller(recipe or AskOnce(), setup)


def test_rows_come_back_in_order_with_their_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(StubEndpoint(lambda body: str(body["seed"]))) as stub:
        caller = make_caller(stub, tmp_path, monkeypatch)
        rows: list[Row] = [{"id": str(n), "number": n} for n in range(20)]
        carried = asyncio.run(carry(caller, rows))
    assert [row["id"] for row in carried] == [row["id"] for row in rows]
    assert all(row["status"] == "ok" and row["answer"] for row in carried)


class CountAtWork:
    """Notes how many rows are at work together."""

    step = "count"

    def __init__(self) -> None:
        self.now = self.most = 0

    async def run(self, row: Row, calls: Calls) -> Row:
        """Works for a moment, without a call."""
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.001)
        self.now -= 1
        return {}


def test_few_rows_are_begun_before_others_are_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = CountAtWork()
    with running(StubEndpoint(lambda body: "yes")) as stub:
        caller = make_caller(stub, tmp_path, monkeypatch, recipe=recipe)
        rows: list[Row] = [{"id": str(n)} for n in range(100)]
        carried = asyncio.run(carry(caller, rows))
    assert [row["status"] for row in carried] == ["ok"] * 100
    assert recipe.most == ROWS_AT_WORK_PER_SLOT * 4


def test_a_used_up_budget_comes_back_by_name_and_all_that_was_paid_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(StubEndpoint(lambda body: "yes", delay_s=0.05)) as stub:
        caller = make_caller(stub, tmp_path, monkeypatch, budget_tokens=1500)
        rows: list[Row] = [{"id": str(n), "number": n} for n in range(200)]
        carried = asyncio.run(carry(caller, rows))
        sold = sum(stub.sold.values())
    ended = [str(row[FATAL]) for row in carried if FATAL in row]
    assert ended
    assert all("BudgetError" in text and "teacher.budget_tokens" in text for text in ended)
    assert sold * 12 <= 1500
    with Ledger(str(tmp_path)) as ledger:
        assert len(ledger) == sold == sum(row["status"] == "ok" for row in carried)
