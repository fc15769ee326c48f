"""One limiter actor per run: divides the in-flight cap among callers and keeps the budget."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable
from decimal import Decimal

import ray
from ray.actor import ActorHandle

from moss.config.teacher import TeacherConfig
from moss.errors import TeacherQuotaError, WaitTimeoutError
from moss.limits import BUDGET_POLL_S, BUDGET_WAIT_S, Budget, LeaseTable, Spend

WAIT = "wait"
RENEW_PERIOD_S = 0.5
"""How often a caller learns its share; also how long a newcomer waits for one."""
REPLY_TIMEOUT_S = 30.0


class TeacherLimiter:
    """Plain state behind the actor: leases of slots, and one budget."""

    def __init__(self, config: TeacherConfig, spent: Spend) -> None:
        self._leases = LeaseTable(config.concurrency)
        self._budget = Budget(tokens=config.budget_tokens, usd=config.budget_usd, spent=spent)

    def renew(self, holder: str, in_use: int) -> int:
        """Slots the holder may use from now on."""
        return self._leases.renew(holder, in_use=in_use, now=time.monotonic())

    def release(self, holder: str) -> None:
        """The holder ends."""
        self._leases.release(holder)

    def reserve(self, tokens: int, usd: Decimal) -> str:
        """Set the worst case aside: "" if done, `WAIT` to ask again, else why it cannot be."""
        try:
            return "" if self._budget.reserve(Spend(tokens, usd)) else WAIT
        except TeacherQuotaError as error:
            return str(error)

    def settle(self, reserved: Spend, spent: Spend) -> None:
        """Turn a reservation into what was spent."""
        self._budget.settle(reserved, spent)


def start_limiter(config: TeacherConfig, spent: Spend, *, run_id: str) -> ActorHandle:
    """Start the limiter of a run; it ends with the driver."""
    actor = ray.remote(TeacherLimiter)
    name = f"teacher-limiter-{run_id}-{uuid.uuid4().hex[:8]}"
    return actor.options(name=name, num_cpus=0, max_restarts=0).remote(config, spent)


class LeasedLimits:
    """`moss.limits.Limits` of one caller, backed by the limiter actor.

    Slots are taken from a lease that is renewed twice a second, so a request costs no remote call
    unless a budget is capped.
    """

    def __init__(self, limiter: ActorHandle, config: TeacherConfig) -> None:
        self._limiter = limiter
        self._is_capped = config.budget_tokens is not None or config.budget_usd is not None
        self._holder = uuid.uuid4().hex
        self._granted = 0
        self._in_use = 0
        self._change = asyncio.Condition()
        self._renewal: asyncio.Task[None] | None = None
        self._waking: set[asyncio.Task[None]] = set()

    async def take_slot(self) -> None:
        """Wait for a free slot of the lease."""
        if self._renewal is None:
            self._renewal = asyncio.create_task(self._renew_forever())
        async with self._change:
            while self._in_use >= self._granted:
                if self._renewal.done():
                    self._renewal.result()
                await self._change.wait()
            self._in_use += 1

    def give_slot(self) -> None:
        """Hand the slot back and wake one waiter."""
        self._in_use -= 1
        waking = asyncio.get_running_loop().create_task(self._wake_one())
        self._waking.add(waking)
        waking.add_done_callback(self._waking.discard)

    async def reserve(self, amount: Spend) -> None:
        """Reserve at the limiter; free of charge when nothing is capped."""
        if not self._is_capped:
            return
        deadline = time.monotonic() + BUDGET_WAIT_S
        while time.monotonic() < deadline:
            answer = self._limiter.reserve.remote(amount.tokens, amount.usd)
            refusal = str(await _bounded(answer, what="a budget reservation"))
            if not refusal:
                return
            if refusal != WAIT:
                raise TeacherQuotaError(refusal)
            await asyncio.sleep(BUDGET_POLL_S)
        raise TeacherQuotaError(
            f"the rest of the budget was set aside for {BUDGET_WAIT_S:g} s by requests that nobody "
            "settled (a caller died); run again, paid answers are kept"
        )

    def settle(self, reserved: Spend, spent: Spend) -> None:
        """Report what was spent, without waiting."""
        if self._is_capped:
            self._limiter.settle.remote(reserved, spent)

    async def close(self) -> None:
        """Release the lease, so that the next caller need not wait for it to run out."""
        if self._renewal is not None:
            self._renewal.cancel()
            await _bounded(self._limiter.release.remote(self._holder), what="a lease to end")

    async def _renew_forever(self) -> None:
        try:
            while True:
                answer = self._limiter.renew.remote(self._holder, self._in_use)
                granted = await _bounded(answer, what="a share of the in-flight cap")
                assert isinstance(granted, int)
                self._granted = granted
                await self._wake_all()
                await asyncio.sleep(RENEW_PERIOD_S)
        finally:
            await self._wake_all()

    async def _wake_one(self) -> None:
        async with self._change:
            self._change.notify(1)

    async def _wake_all(self) -> None:
        async with self._change:
            self._change.notify_all()


async def _bounded(answer: Awaitable[object], *, what: str) -> object:
    try:
        return await asyncio.wait_for(answer, REPLY_TIMEOUT_S)
    except TimeoutError as error:
        raise WaitTimeoutError(
            f"waited {REPLY_TIMEOUT_S:g} s for {what} from the limiter actor; the cluster is "
            "overloaded or the driver is gone: run the job again to resume"
        ) from error
