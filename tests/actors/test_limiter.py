"""Callers in different jobs share one endpoint's limits, and survive each other's end."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
import ray
from ray.actor import ActorHandle

from actors.limiter import LeasedLimits, limiter_name, reach_limiter, start_budget
from moss.config.teacher import TeacherConfig
from moss.endpoint_limits import CallerReport, RunLimits
from moss.errors import BudgetError
from moss.limits import Spend
from moss.slots import Attempt
from tests.prometheus import samples

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 60


def config(**values: object) -> TeacherConfig:
    """An endpoint of the test's own, so that no other test's callers are counted."""
    base = {"base_url": f"http://host/{uuid.uuid4().hex}", "concurrency": 8}
    return TeacherConfig.model_validate({**base, **values})


def num_holders(limited: TeacherConfig) -> int:
    found = ray.get(reach_limiter(limited).num_holders.remote(), timeout=WAIT_S)
    assert isinstance(found, int)
    return found


def is_alive(limiter: ActorHandle) -> bool:
    try:
        ray.get(limiter.num_holders.remote(), timeout=WAIT_S)
    except ray.exceptions.RayActorError:
        return False
    return True


async def use(limits: LeasedLimits, counts: list[int], *, times: int = 30) -> None:
    """Hold slots as `times` requests would; `counts` is [in flight, most in flight]."""

    async def one() -> None:
        await limits.take_slot(1, is_retry=False)
        counts[0] += 1
        counts[1] = max(counts)
        await asyncio.sleep(0.01)
        counts[0] -= 1
        limits.give_slot(Attempt("answered"))

    await asyncio.gather(*(one() for _ in range(times)))


def test_a_key_and_an_address_name_a_limiter(monkeypatch: pytest.MonkeyPatch) -> None:
    one = TeacherConfig(base_url="http://a/v1")
    names = {limiter_name(one), limiter_name(TeacherConfig(base_url="http://b/v1"))}
    monkeypatch.setenv("TEACHER_API_KEY", "secret-key")
    names.add(limiter_name(one))
    assert len(names) == 3
    assert not any("secret" in name for name in names)


async def test_two_runs_together_stay_within_what_one_may_do() -> None:
    limited = config()
    runs = [LeasedLimits(limited, run=name, budget=None) for name in ("one", "two")]
    counts = [0, 0]
    await asyncio.wait_for(asyncio.gather(*(use(limits, counts) for limits in runs)), WAIT_S)
    assert counts[1] <= 8
    for limits in runs:
        await limits.close()
    assert num_holders(limited) == 0


async def test_prometheus_sees_attempts_and_who_waits() -> None:
    limiter = reach_limiter(config())
    report = CallerReport(
        "holder", "run", RunLimits(concurrency=8), in_use=3, wanted=4711,
        num_answered=701, num_overloaded=702, num_failed=703,
    )  # fmt: skip
    name = "ray_moss_endpoint_attempts_count_total"
    wanted = {"answered": 701.0, "overloaded": 702.0, "failed": 703.0}
    ray.get(limiter.renew.remote(report), timeout=WAIT_S)
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline and 703 not in samples(name, outcome="failed"):
        await asyncio.sleep(0.5)
    for outcome, value in wanted.items():
        assert value in samples(name, outcome=outcome)
    assert 4711 in samples("ray_moss_endpoint_waiting_count")
    assert 3 in samples("ray_moss_endpoint_in_flight_count")
    assert samples("ray_moss_endpoint_slots_count")
    ray.kill(limiter)


async def test_callers_go_on_when_the_limiter_dies() -> None:
    limited = config()
    limits = LeasedLimits(limited, run="one", budget=None)
    counts = [0, 0]
    await asyncio.wait_for(use(limits, counts), WAIT_S)
    ray.kill(reach_limiter(limited))
    await asyncio.wait_for(use(limits, counts, times=100), WAIT_S)
    await limits.close()


async def test_an_idle_limiter_ends_and_is_started_again_when_needed() -> None:
    limited = config()
    first = reach_limiter(limited, idle_s=1.0)
    assert ray.get(first.num_holders.remote(), timeout=WAIT_S) == 0
    deadline = time.monotonic() + WAIT_S
    while is_alive(first) and time.monotonic() < deadline:
        await asyncio.sleep(0.2)
    assert not is_alive(first)
    limits = LeasedLimits(limited, run="one", budget=None)
    await asyncio.wait_for(use(limits, [0, 0]), WAIT_S)
    await limits.close()


def test_a_jobs_death_neither_strands_the_limiter_nor_takes_it_along() -> None:
    limited = config()
    handle = reach_limiter(limited)
    code = (
        "import asyncio, sys, ray\n"
        "from actors.limiter import LeasedLimits\n"
        "from moss.config.teacher import TeacherConfig\n"
        f"ray.init(address={ray.get_runtime_context().gcs_address!r}, log_to_driver=False)\n"
        f"limited = TeacherConfig(base_url={limited.base_url!r}, concurrency=8)\n"
        "async def work():\n"
        "    limits = LeasedLimits(limited, run='other', budget=None)\n"
        "    for _ in range(8):\n"
        "        await limits.take_slot(1, is_retry=False)\n"
        "    print('all taken', flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(work())\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}"}
    other = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "all taken\n"
    assert ray.get(handle.num_holders.remote(), timeout=WAIT_S) == 1
    other.kill()
    other.wait(WAIT_S)

    async def work() -> None:  # its slots come free once its lease has run out
        limits = LeasedLimits(limited, run="mine", budget=None)
        await asyncio.wait_for(use(limits, [0, 0]), WAIT_S)
        await limits.close()

    asyncio.run(work())


async def test_a_budget_holds_over_callers_without_a_call_per_request() -> None:
    limited = config(budget_tokens=1000)
    budget = start_budget(limited, Spend(60), Spend(40))
    callers = [LeasedLimits(limited, run="one", budget=budget) for _ in range(2)]
    spent = 0

    async def buy(limits: LeasedLimits) -> None:
        nonlocal spent
        await limits.reserve(Spend(20))
        await asyncio.sleep(0.01)
        spent += 15
        limits.settle(Spend(20), Spend(15))

    buying = [buy(callers[number % 2]) for number in range(100)]
    outcomes = await asyncio.wait_for(asyncio.gather(*buying, return_exceptions=True), WAIT_S)
    refused = [error for error in outcomes if error is not None]
    assert refused
    assert all(isinstance(error, BudgetError) for error in refused)
    assert 900 - 2 * 20 <= spent <= 900
    for limits in callers:
        await limits.close()
