"""Limits of one process: a semaphore and a budget, for tests, notebooks and small runs."""

from __future__ import annotations

import asyncio

from moss.limits import BUDGET_POLL_S, Budget, Spend


class LocalLimits:
    """`moss.limits.Limits` without a cluster."""

    def __init__(self, concurrency: int, budget: Budget) -> None:
        self._slots = asyncio.Semaphore(concurrency)
        self._budget = budget

    async def take_slot(self) -> None:
        """Wait for a free slot."""
        await self._slots.acquire()

    def give_slot(self) -> None:
        """Hand the slot back."""
        self._slots.release()

    async def reserve(self, amount: Spend) -> None:
        """Reserve in the budget, once requests in flight leave room; see `Budget.reserve`."""
        while not self._budget.reserve(amount):
            await asyncio.sleep(BUDGET_POLL_S)

    def settle(self, reserved: Spend, spent: Spend) -> None:
        """Settle in the budget."""
        self._budget.settle(reserved, spent)

    async def close(self) -> None:
        """Nothing is held beyond the process."""
