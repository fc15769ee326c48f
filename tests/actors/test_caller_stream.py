"""Rows through Ray Data in waves: order, laziness, errors, a reader that goes away."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from actors.caller import FATAL, ROW, Batch, Stage, as_batch, stream_rows
from moss.config.synthesis import CallerConfig
from moss.errors import TeacherQuotaError
from moss.recipes import Row

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

CONFIG = CallerConfig(num_cpus=0.1, batch_rows=4, block_rows=8, wave_rows=24, wait_s=120)


class Double:
    """Adds twice the number; a row numbered -1 ends the stream."""

    def __call__(self, batch: Batch) -> Batch:
        rows: list[Row] = [json.loads(text) for text in batch[ROW]]
        for row in rows:
            number = int(str(row["number"]))
            row["double"] = 2 * number
            if number == -1:
                row[FATAL] = ["TeacherQuotaError", "the budget is used up"]
        return as_batch(rows)


STAGES = [Stage(stage_class=Double, arguments=(), num_actors=2, num_cpus=0.1, batch_rows=4)]


def test_rows_come_back_in_order_and_are_taken_a_wave_at_a_time() -> None:
    taken = 0

    def source() -> Iterator[Row]:
        nonlocal taken
        for number in range(60):
            taken += 1
            yield {"number": number}

    finished = 0
    for row in stream_rows(source(), STAGES, config=CONFIG):
        assert row == {"number": finished, "double": 2 * finished}
        finished += 1
        assert taken <= -(-finished // CONFIG.wave_rows) * CONFIG.wave_rows
    assert finished == taken == 60


def test_an_empty_stream_starts_nothing() -> None:
    assert list(stream_rows(iter(()), STAGES, config=CONFIG)) == []


def test_an_error_no_row_can_escape_ends_the_stream_as_what_it_was() -> None:
    rows: list[Row] = [{"number": -1 if number == 30 else number} for number in range(60)]
    finished: list[Row] = []
    with pytest.raises(TeacherQuotaError, match="the budget is used up"):
        finished.extend(stream_rows(rows, STAGES, config=CONFIG))
    assert [row["number"] for row in finished] == list(range(30))


def test_a_reader_may_go_away() -> None:
    stream = stream_rows(({"number": n} for n in range(60)), STAGES, config=CONFIG)
    assert next(stream) == {"number": 0, "double": 0}
    del stream
    rows: list[Row] = [{"number": 1}]
    assert list(stream_rows(rows, STAGES, config=CONFIG)) == [{"number": 1, "double": 2}]
