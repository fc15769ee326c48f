"""Answers of a form: one repair that shows the model its fault, then the row is set aside."""

import asyncio
import tempfile
from pathlib import Path

import pytest

from moss.config.synthesis import SamplingConfig
from moss.config.teacher import TeacherConfig
from moss.endpoint_limits import RunLimits
from moss.errors import TeacherResponseError
from moss.ledger import Ledger
from moss.limits import Budget
from moss.local_limits import LocalLimits
from moss.recipes import Calls, Row, Sampling
from moss.structured import ask_parsed
from moss.teacher import Endpoint, Teacher
from moss.templates import load_template
from moss.usecases import parse_difficulty
from tests.moss.recipe_runner import run_recipe
from tests.stub_endpoint import Responder, StubEndpoint, running


class Rate:
    """A recipe of one rating."""

    step = "rate"

    async def run(self, row: Row, calls: Calls) -> Row:
        rating = await ask_parsed(
            calls,
            str(row["model"]),
            "How difficult?",
            Sampling(SamplingConfig()),
            step="rate",
            template=load_template("rate_difficulty", "en"),
            parse=parse_difficulty,
        )
        return {"difficulty": rating}


ROW: Row = {"id": "r", "model": "m"}


def in_order(*answers: str) -> Responder:
    remaining = list(answers)
    return lambda _: remaining.pop(0)


def test_a_readable_answer_is_asked_for_once() -> None:
    row, bodies = run_recipe(Rate(), ROW, in_order("4"))
    assert (row["difficulty"], row["attempts"], len(bodies)) == (4, 1, 1)


def test_an_unreadable_answer_is_shown_to_the_model_with_the_reason() -> None:
    row, bodies = run_recipe(Rate(), ROW, in_order("quite hard", "3"))
    assert (row["status"], row["difficulty"], row["attempts"]) == ("ok", 3, 2)
    first, second = (body["messages"] for body in bodies)
    assert isinstance(first, list)
    assert isinstance(second, list)
    assert second[0] == first[0]
    assert second[1] == {"role": "assistant", "content": "quite hard"}
    assert "no one difficulty from 1 to 5" in second[2]["content"]


def test_what_cannot_be_repaired_is_set_aside_with_its_raw_text() -> None:
    row, bodies = run_recipe(Rate(), ROW, in_order("quite hard", "very hard"))
    assert (row["status"], len(bodies)) == ("failed", 2)
    assert "'quite hard'" in str(row["reason"])
    assert "'very hard'" in str(row["reason"])
    keys = row["ledger_keys"]
    assert isinstance(keys, list)
    assert len(keys) == 2


async def rate(stub: StubEndpoint, folder: str, *, completes: bool) -> object:
    config = TeacherConfig(base_url=stub.base_url, completion_models=("m",) if completes else ())
    limits = LocalLimits(RunLimits(concurrency=2), Budget(tokens=None, usd=None))
    with Ledger(folder) as ledger:
        async with Teacher(config, Endpoint("s"), ledger=ledger, limits=limits) as teacher:
            calls = Calls(teacher, config, seed=0, row_id="r", step="rate")
            return (await Rate().run(ROW, calls))["difficulty"]


def test_a_model_that_only_completes_is_repaired_by_a_longer_prompt() -> None:
    with running(StubEndpoint(in_order("hard", "2"))) as stub, tempfile.TemporaryDirectory() as f:
        assert asyncio.run(rate(stub, f, completes=True)) == 2
        assert str(stub.bodies[1]["prompt"]).startswith("How difficult?hard\n\nYour last answer")


def test_a_resumed_run_pays_neither_answer_again(tmp_path: Path) -> None:
    with running(StubEndpoint(in_order("hard", "easy"))) as stub:
        for _ in range(2):
            with pytest.raises(TeacherResponseError, match="after one repair"):
                asyncio.run(rate(stub, str(tmp_path), completes=False))
        assert len(stub.bodies) == 2
