"""How many blocks a caller works on at once follows from its slots."""

import pytest

from actors.caller import MAX_TASKS, ROWS_PER_SLOT, CallerSetup, call_stage
from benchmarks.synthesis_job import AskOnce
from moss.config.synthesis import CallerConfig
from moss.config.teacher import TeacherConfig
from moss.teacher import Endpoint


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
    assert rows_at_hand >= min(ROWS_PER_SLOT * concurrency / callers, MAX_TASKS * block_rows)
