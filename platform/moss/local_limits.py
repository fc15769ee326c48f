"""Limits of one process, for tests, notebooks and small runs."""

from __future__ import annotations

import time

from moss.budget_shares import BudgetKeeper, BudgetShare, Loan, Trade
from moss.endpoint_limits import CallerReport, EndpointLimits, Grant, RunLimits
from moss.errors import MossError
from moss.limits import Budget, Spend
from moss.slots import Attempt, RenewedSlots, SlotQueue


class LocalLimits:
    """`moss.limits.Limits` without a cluster: the same rules, their state in this process."""

    def __init__(
        self, limits: RunLimits, budget: Budget, *, endpoint: str = "the endpoint"
    ) -> None:
        self._shared = EndpointLimits()
        self._slots = RenewedSlots(SlotQueue(limits), self._renew, endpoint=endpoint)
        self._keeper = BudgetKeeper(budget) if budget.is_capped else None
        self._budget = BudgetShare(self._trade)

    async def take_slot(self, tokens: int, *, is_retry: bool) -> None:
        """Wait for a free slot."""
        await self._slots.take(tokens, is_retry=is_retry)

    def give_slot(self, attempt: Attempt) -> None:
        """Hand the slot back."""
        self._slots.give(attempt)

    async def reserve(self, amount: Spend) -> None:
        """Reserve in the budget, once requests in flight leave room."""
        if self._keeper is not None:
            await self._budget.reserve(amount)

    def settle(self, reserved: Spend, spent: Spend) -> None:
        """Settle in the budget."""
        if self._keeper is not None:
            self._budget.settle(reserved, spent)

    def fail(self, error: MossError) -> None:
        """End all waiting."""
        self._slots.fail(error)
        self._budget.fail(error)

    async def close(self) -> None:
        """Stop renewing; tell the budget the last figures."""
        await self._slots.close()
        last = await self._budget.close()
        if last is not None and self._keeper is not None:
            self._keeper.leave(last, now=time.monotonic())

    async def _renew(self, report: CallerReport) -> Grant:
        return self._shared.renew(report, now=time.monotonic())

    async def _trade(self, trade: Trade) -> Loan:
        assert self._keeper is not None
        return self._keeper.trade(trade, now=time.monotonic())
