"""Rows through Ray Data in waves: order, laziness, errors, a reader that goes away."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from actors.caller import (
    FATAL,
    ROW,
    Batch,
    CallerSetup,
    Stage,
    as_batch,
    call_stage,
    stream_rows,
)
from actors.limiter import reach_limiter
from moss.config.synthesis import CallerConfig, SamplingConfig
from moss.config.teacher import TeacherConfig
from moss.endpoint import check_endpoint
from moss.errors import TeacherQuotaError
from moss.recipes import Calls, Row, Sampling
from moss.secret_keys import collect_keys
from moss.teacher import Message
from moss.templates import Template
from tests.stub_endpoint import StubEndpoint, running

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


PROMPT = Template("test", "en", 1, ("number",), "Say {number}.")


@dataclass(frozen=True)
class Ask:
    """A recipe of one call."""

    step = "ask"

    async def run(self, row: Row, calls: Calls) -> Row:
        sampling = Sampling(SamplingConfig(max_tokens=8))
        messages = [Message("user", PROMPT.render(number=int(str(row["number"]))))]
        answer = await calls.chat("m", messages, sampling, step="ask", template=PROMPT)
        return {"answer": answer.text}


def test_callers_use_the_drivers_key_which_their_node_does_not_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("the-key\n", encoding="utf-8")
    monkeypatch.setenv("TEST_TEACHER_KEY_FILE", str(key_file))
    with running(StubEndpoint(lambda _: "yes", key="the-key")) as stub:
        teacher = TeacherConfig(base_url=stub.base_url, api_key_env="TEST_TEACHER_KEY")
        reach_limiter(teacher)
        setup = CallerSetup(
            teacher, check_endpoint(teacher), str(tmp_path / "ledger"), seed=0, run="keys",
            budget=None, keys=collect_keys([teacher.api_key_env]),
        )  # fmt: skip
        assert "the-key" not in repr(setup)
        rows: list[Row] = [{"id": str(number), "number": number} for number in range(3)]
        answers = list(stream_rows(rows, [call_stage(Ask(), setup, CONFIG)], config=CONFIG))
    assert [row["answer"] for row in answers] == ["yes"] * 3


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
