"""The limits of an endpoint and the budget of a run, as actors that all callers share.

One `EndpointLimiter` per base URL and key serves every run of the cluster that asks there. It has a
name in a namespace of its own, belongs to no job, and ends by itself once nobody has reported for
`IDLE_S`, so the death of a job neither strands it nor takes it from others. Its state is soft:
callers that find it gone (its node died) start another, which learns from their reports.

The budget belongs to one run: a `BudgetActor` beside the driver, ending with it.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import Awaitable
from contextlib import suppress

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.limiter_metrics import LimiterMetrics
from moss.budget_shares import BudgetKeeper, BudgetShare, Loan, Trade
from moss.config.teacher import TeacherConfig
from moss.endpoint_limits import CallerReport, EndpointLimits, Grant, RunLimits
from moss.errors import MossError, WaitTimeoutError
from moss.limits import Budget, Spend
from moss.slots import Attempt, RenewedSlots, SlotQueue

NAMESPACE = "moss-limits"
"""Actor names count within a namespace; by default each job has its own."""
REPLY_TIMEOUT_S = 30.0
IDLE_S = 60.0
"""An endpoint's limiter ends when nobody has reported for so long."""
NUM_STARTS = 5
RESTART_WAIT_S = 0.5
"""Attempts to start a limiter after one has ended, and the pause before each."""


class EndpointLimiter:
    """Plain state behind the actor."""

    def __init__(self, idle_s: float = IDLE_S) -> None:
        self._limits = EndpointLimits()
        self._metrics = LimiterMetrics()
        self._reported_at = time.monotonic()
        self._idle_s = idle_s
        me = ray.get_runtime_context().current_actor
        threading.Thread(target=self._watch, args=(me,), daemon=True).start()

    def renew(self, report: CallerReport) -> Grant:
        """See `EndpointLimits.renew`."""
        self._reported_at = time.monotonic()
        grant = self._limits.renew(report, now=self._reported_at)
        self._metrics.observe(report, self._limits)
        return grant

    def release(self, holder: str) -> None:
        """The holder ends."""
        self._limits.release(holder)

    def num_holders(self) -> int:
        """Callers that hold a share now."""
        return self._limits.drop_silent(now=time.monotonic())

    def _watch(self, me: ActorHandle) -> None:
        """End the actor once it is idle; who reports just then starts another."""
        while time.monotonic() - self._reported_at < self._idle_s:
            time.sleep(self._idle_s / 4)
        ray.kill(me)


class BudgetActor:
    """The budget of one run."""

    def __init__(self, config: TeacherConfig, spent: Spend, in_doubt: Spend) -> None:
        tokens, usd = config.budget_tokens, config.budget_usd
        self._keeper = BudgetKeeper(Budget(tokens=tokens, usd=usd, spent=spent, in_doubt=in_doubt))

    def trade(self, trade: Trade) -> Loan:
        """See `BudgetKeeper.trade`."""
        return self._keeper.trade(trade, now=time.monotonic())

    def leave(self, trade: Trade) -> None:
        """See `BudgetKeeper.leave`."""
        self._keeper.leave(trade, now=time.monotonic())


def limiter_name(config: TeacherConfig) -> str:
    """Name of the limiter of an endpoint; two keys at one address have limits of their own."""
    identity = f"{config.base_url}\0{config.api_key() or ''}"
    return f"endpoint-{hashlib.sha256(identity.encode()).hexdigest()[:24]}"


def reach_limiter(config: TeacherConfig, *, idle_s: float = IDLE_S) -> ActorHandle:
    """The endpoint's limiter, started if there is none."""
    actor = ray.remote(EndpointLimiter)
    return actor.options(
        name=limiter_name(config),
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        num_cpus=0,
        max_restarts=0,
    ).remote(idle_s)


def start_budget(config: TeacherConfig, spent: Spend, in_doubt: Spend) -> ActorHandle:
    """The run's budget, on the driver's node, so that no other node's death takes it.

    Args:
        spent: by earlier attempts of the run.
        in_doubt: what was in flight when they were killed, at its worst case.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(BudgetActor)
    return actor.options(num_cpus=0, max_restarts=0, scheduling_strategy=here).remote(
        config, spent, in_doubt
    )


class LeasedLimits:
    """`moss.limits.Limits` of one caller, backed by the two actors.

    Neither a slot nor a reservation costs a remote call: both are taken from what the last report
    or trade brought.

    Args:
        run: name of the run, the same for all its callers.
        budget: None where nothing is capped.
    """

    def __init__(self, config: TeacherConfig, *, run: str, budget: ActorHandle | None) -> None:
        self._config = config
        self._budget = budget
        self._limiter = reach_limiter(config)
        self._queue = SlotQueue(RunLimits.of(config), run=run)
        self._slots = RenewedSlots(
            self._queue, self._renew, endpoint=config.base_url or "the endpoint"
        )
        self._share = BudgetShare(self._trade)

    async def take_slot(self, tokens: int, *, is_retry: bool) -> None:
        """Wait for a free slot of the lease."""
        await self._slots.take(tokens, is_retry=is_retry)

    def give_slot(self, attempt: Attempt) -> None:
        """Hand the slot back."""
        self._slots.give(attempt)

    async def reserve(self, amount: Spend) -> None:
        """Reserve in the budget."""
        if self._budget is not None:
            await self._share.reserve(amount)

    def settle(self, reserved: Spend, spent: Spend) -> None:
        """Settle in the budget."""
        if self._budget is not None:
            self._share.settle(reserved, spent)

    def fail(self, error: MossError) -> None:
        """End all waiting."""
        self._slots.fail(error)
        self._share.fail(error)

    async def close(self) -> None:
        """Release the lease, so that the next caller need not wait for it to run out."""
        with suppress(RayActorError):  # an actor that is gone holds nothing of ours
            if await self._slots.close():
                await _bounded(self._limiter.release.remote(self._queue.holder), "a lease to end")
        last = await self._share.close()
        with suppress(RayActorError):
            if last is not None and self._budget is not None:
                await _bounded(self._budget.leave.remote(last), "the budget to be settled")

    async def _renew(self, report: CallerReport) -> Grant:
        for _ in range(NUM_STARTS):
            try:
                answer = self._limiter.renew.remote(report)
                grant = await _bounded(answer, "a share of the endpoint's limit")
            except RayActorError:  # idle for long, or its node died
                await asyncio.sleep(RESTART_WAIT_S)
                self._limiter = reach_limiter(self._config)
                continue
            assert isinstance(grant, Grant)
            return grant
        raise WaitTimeoutError(
            f"the limiter of {self._config.base_url} ended {NUM_STARTS} times in a row; look at "
            "the cluster's logs, then run again: paid answers are kept"
        )

    async def _trade(self, trade: Trade) -> Loan:
        assert self._budget is not None
        try:
            loan = await _bounded(self._budget.trade.remote(trade), "a part of the budget")
        except RayActorError as error:
            raise WaitTimeoutError(
                "the budget's actor is gone, so its driver is; run the job again to resume"
            ) from error
        assert isinstance(loan, Loan)
        return loan


async def _bounded(answer: Awaitable[object], what: str) -> object:
    try:
        return await asyncio.wait_for(answer, REPLY_TIMEOUT_S)
    except TimeoutError as error:
        raise WaitTimeoutError(
            f"waited {REPLY_TIMEOUT_S:g} s for {what}; the cluster is overloaded or the driver is "
            "gone: run the job again to resume"
        ) from error
    except RayActorError:
        raise
    except RayError as error:
        raise WaitTimeoutError(f"asking for {what} failed: {error}; run the job again") from error
