"""The endpoint of the benchmarks, and the call engine against all its faults, without a cluster."""

import asyncio
from collections import Counter
from pathlib import Path

from benchmarks.fake_endpoint import Running, running
from benchmarks.plain_clients import body, run_aiohttp, run_bare, run_persistent
from benchmarks.synthesis import FAULTS
from moss.config.teacher import TeacherConfig
from moss.endpoint_limits import RunLimits
from moss.ledger import Ledger
from moss.limits import Budget
from moss.local_limits import LocalLimits
from moss.teacher import Endpoint, Message, Teacher, TeacherAnswer, TeacherRequest

NUM_CALLS = 300


async def ask_all(endpoint: Running, folder: Path) -> list[TeacherAnswer]:
    config = TeacherConfig(
        base_url=endpoint.base_url, concurrency=32, timeout_s=1.0, backoff_s=0.01
    )
    limits = LocalLimits(RunLimits.of(config), Budget(tokens=None, usd=None))
    with Ledger(str(folder)) as ledger:
        async with Teacher(config, Endpoint("f"), ledger=ledger, limits=limits) as teacher:
            requests = [
                TeacherRequest(model="m", messages=(Message("user", str(number)),))
                for number in range(NUM_CALLS)
            ]
            return list(await asyncio.gather(*map(teacher.complete, requests)))


def test_no_fault_loses_an_answer_or_pays_one_twice(tmp_path: Path) -> None:
    with running("--latency-s", "0.02", "--retry-after-s", "0.1") as endpoint:
        endpoint.reset(faults=FAULTS)
        answers = asyncio.run(ask_all(endpoint, tmp_path))
        stats = endpoint.stats()
    assert len(answers) == NUM_CALLS
    assert stats["contents"] == NUM_CALLS
    assert stats["sold_again"] == 0
    assert len({answer.text for answer in answers}) == NUM_CALLS
    assert set(stats["outcomes"]) >= {"answer", "status_429", "malformed"}


def test_the_persistent_yardstick_gets_every_answer_once_and_obeys_refusals() -> None:
    with running("--latency-s", "0.02", "--retry-after-s", "0.3") as endpoint:
        endpoint.reset(faults=FAULTS)
        run_persistent(endpoint, NUM_CALLS, 32, timeout_s=0.2)
        stats = endpoint.stats()
    assert stats["contents"] == stats["sold"] == NUM_CALLS
    assert stats["span_s"] >= 0.3


def test_both_yardsticks_make_each_call_once() -> None:
    with running("--latency-s", "0.001") as endpoint:
        for run in (run_aiohttp, run_bare):
            endpoint.reset(expect=50)
            run(endpoint, 50, 8)
            stats = endpoint.stats()
            assert (stats["sold"], stats["contents"]) == (50, 50)
            assert stats["max_in_flight"] <= 8
    assert max(Counter(str(body(number)) for number in range(50)).values()) == 1
