import asyncio
from collections.abc import Awaitable, Callable

import pytest

from moss.endpoint_limits import CallerReport, Grant, RunLimits
from moss.errors import TeacherQuotaError, TeacherUnavailableError
from moss.slots import Attempt, RenewedSlots, SlotQueue

LIMITS = RunLimits(concurrency=4)
DONE = Attempt("answered")


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_retries_go_before_new_requests() -> None:
    queue = SlotQueue(LIMITS)
    order: list[str] = []

    async def ask(name: str, *, is_retry: bool) -> None:
        await queue.take(1, is_retry=is_retry)
        order.append(name)
        queue.give(DONE)

    asking = [
        asyncio.create_task(ask(name, is_retry=name.startswith("retry")))
        for name in ("new 1", "new 2", "retry 1", "retry 2")
    ]
    await settle()
    queue.apply(Grant(slots=1))
    await asyncio.gather(*asking)
    assert order == ["retry 1", "retry 2", "new 1", "new 2"]


async def test_no_more_start_than_slots_requests_and_tokens_allow() -> None:
    queue = SlotQueue(LIMITS)
    asking = [asyncio.create_task(queue.take(100, is_retry=False)) for _ in range(9)]
    await settle()
    for grant, running in [
        (Grant(slots=2), 2),
        (Grant(slots=9, requests=3.0), 5),
        (Grant(slots=9, requests=9.0, tokens=150.0), 7),  # the second one takes it below zero
    ]:
        queue.apply(grant)
        await settle()
        assert sum(task.done() for task in asking) == running
        assert queue.report().in_use == running
    assert queue.num_waiting == 2
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)


async def test_a_cancelled_request_loses_no_slot() -> None:
    queue = SlotQueue(LIMITS)
    first, second = (asyncio.create_task(queue.take(1, is_retry=False)) for _ in range(2))
    await settle()
    first.cancel()
    queue.apply(Grant(slots=1))  # granted in the same turn in which it is cancelled
    await asyncio.gather(first, return_exceptions=True)
    await asyncio.wait_for(second, 1)
    assert queue.report().in_use == 1


async def test_a_report_hands_permits_back_and_counts_once() -> None:
    queue = SlotQueue(LIMITS)
    queue.apply(Grant(slots=4, requests=5.0, tokens=100.0))
    await queue.take(30, is_retry=False)
    queue.give(Attempt("overloaded", tokens_asked=30, tokens_used=0, cause="busy"))
    report = queue.report()
    assert (report.unused_requests, report.unused_tokens) == (4.0, 100.0)
    assert (report.num_overloaded, report.last_cause, report.in_use) == (1, "busy", 0)
    again = queue.report()
    assert (again.unused_requests, again.num_overloaded, again.last_cause) == (0.0, 0, "")


async def test_the_difference_between_estimate_and_truth_is_given_back() -> None:
    queue = SlotQueue(LIMITS)
    queue.apply(Grant(slots=4, requests=5.0, tokens=100.0))
    await queue.take(90, is_retry=False)
    queue.give(Attempt("answered", tokens_asked=90, tokens_used=40))
    assert queue.report().unused_tokens == 60.0


async def test_an_error_reaches_all_who_wait_and_all_who_come() -> None:
    queue = SlotQueue(LIMITS)
    asking = [asyncio.create_task(queue.take(1, is_retry=False)) for _ in range(3)]
    await settle()
    queue.fail(TeacherQuotaError("no quota"))
    ended = await asyncio.gather(*asking, return_exceptions=True)
    assert all(isinstance(error, TeacherQuotaError) for error in ended)
    with pytest.raises(TeacherQuotaError):
        await queue.take(1, is_retry=True)


def renewed(renew: Callable[[CallerReport], Awaitable[Grant]]) -> RenewedSlots:
    return RenewedSlots(SlotQueue(LIMITS), renew, endpoint="http://host/v1")


async def test_the_first_request_after_a_quiet_time_need_not_wait_for_a_period() -> None:
    reports: list[CallerReport] = []

    async def renew(report: CallerReport) -> Grant:
        reports.append(report)
        return Grant(slots=report.in_use + report.wanted)  # nothing while nothing is wanted

    slots = renewed(renew)
    for _ in range(3):
        await slots.take(1, is_retry=False)
        slots.give(DONE)
        await settle()
    await slots.close()
    assert len(reports) < 8


async def test_an_open_breaker_ends_the_waiting_with_endpoint_and_cause() -> None:
    async def renew(report: CallerReport) -> Grant:
        return Grant(slots=0, stop="it answered 500 (oops)")

    slots = renewed(renew)
    with pytest.raises(TeacherUnavailableError, match=r"http://host/v1 .*500 \(oops\).*run again"):
        await slots.take(1, is_retry=False)
    await slots.close()


async def test_limits_that_cannot_be_reached_end_the_waiting() -> None:
    async def renew(report: CallerReport) -> Grant:
        raise TeacherUnavailableError("the limiter is gone")

    slots = renewed(renew)
    with pytest.raises(TeacherUnavailableError, match="limiter is gone"):
        await slots.take(1, is_retry=False)
    await slots.close()
