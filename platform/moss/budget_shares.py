"""One budget, lent in small parts to many callers, so that a request costs no remote call.

`BudgetKeeper` holds the budget. A `BudgetShare` is what one caller was lent: it reserves each
request's worst case from it, and trades a few times a second: spent and surplus for a new loan.
Spent plus lent never passes the cap. The loan of a caller that dies stays set aside, since what was
in flight may be billed; the ledger knows how much that was at the next start.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from moss.errors import BudgetError, MossError
from moss.limits import Budget, Spend

TRADE_PERIOD_S = 0.25
WAIT_PERIOD_S = 0.05
LOAN_REQUESTS = 16
"""Requests of the size just asked for that one loan covers, where the budget has them."""
SCARCE_S = 2.0
"""How long after a caller had to wait the others keep no surplus."""
SILENCE_S = 30.0
"""A caller that trades no more for this long is taken for dead."""
WAIT_LIMIT_S = 600.0
NOTHING = Spend()


@dataclass(frozen=True, slots=True)
class Trade:
    """What a caller reports and asks for."""

    holder: str
    spent: Spend = NOTHING
    """Since the last trade."""
    returned: Spend = NOTHING
    """Part of the loan that is handed back."""
    request: Spend = NOTHING
    """Worst case of the request that waits; zero if none does."""
    missing: Spend = NOTHING
    """How much of it the rest of the loan does not cover."""


@dataclass(frozen=True, slots=True)
class Loan:
    """The answer to a trade."""

    lent: Spend = NOTHING
    must_wait: bool = False
    """The request must wait until others settle or return."""
    refusal: str = ""
    """Why it can never be made under this cap."""
    is_scarce: bool = False
    """Others wait: keep no surplus."""


class BudgetKeeper:
    """The budget of a run and what each caller holds of it."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._lent: dict[str, Spend] = {}
        self._seen: dict[str, float] = {}
        self._scarce_until = float("-inf")

    def trade(self, trade: Trade, *, now: float) -> Loan:
        """Settle what was spent and returned; lend for what is asked.

        Args:
            now: seconds on a monotonic clock.
        """
        self._settle(trade, now)
        self._write_off_silent(now)
        is_scarce = now < self._scarce_until
        loan = Loan() if trade.request == Spend() else self._lend(trade, is_scarce=is_scarce)
        if loan.must_wait:
            self._scarce_until = now + SCARCE_S
        return Loan(loan.lent, loan.must_wait, loan.refusal, now < self._scarce_until)

    def leave(self, trade: Trade, *, now: float) -> None:
        """The caller ends; nothing of it is outstanding any more."""
        self._settle(trade, now)
        outstanding = self._lent.pop(trade.holder)
        self._seen.pop(trade.holder)
        self._budget.settle(outstanding, Spend())

    @property
    def spent(self) -> Spend:
        """Settled so far."""
        return self._budget.spent

    @property
    def in_doubt(self) -> Spend:
        """See `Budget.in_doubt`."""
        return self._budget.in_doubt

    def _settle(self, trade: Trade, now: float) -> None:
        self._seen[trade.holder] = now
        given_up = trade.spent + trade.returned
        self._lent[trade.holder] = self._lent.get(trade.holder, Spend()) - given_up
        self._budget.settle(given_up, trade.spent)

    def _lend(self, trade: Trade, *, is_scarce: bool) -> Loan:
        try:
            self._budget.refuse_impossible(trade.request)
        except BudgetError as error:
            return Loan(refusal=str(error))
        many = trade.missing + trade.request * (LOAN_REQUESTS - 1)
        for amount in (trade.missing,) if is_scarce else (many, trade.missing):
            if self._can_reserve(amount):
                self._lent[trade.holder] += amount
                return Loan(lent=amount)
        return Loan(must_wait=True)

    def _can_reserve(self, amount: Spend) -> bool:
        try:
            return self._budget.reserve(amount)
        except BudgetError:  # a loan for many requests may pass the cap where one does not
            return False

    def _write_off_silent(self, now: float) -> None:
        for holder in [h for h, seen in self._seen.items() if now - seen > SILENCE_S]:
            lost = self._lent.pop(holder)
            del self._seen[holder]
            self._budget.write_off(lost)


class BudgetShare:
    """One caller's loan. `trade` reaches the keeper; requests queue while the loan is short."""

    def __init__(self, trade: Callable[[Trade], Awaitable[Loan]]) -> None:
        self._trade = trade
        self._holder = uuid.uuid4().hex
        self._free = Spend()
        self._spent = Spend()
        self._last_request = Spend()
        self._is_scarce = False
        self._waiting: deque[tuple[asyncio.Future[None], Spend]] = deque()
        self._is_wanted = asyncio.Event()
        self._trading: asyncio.Task[None] | None = None
        self._error: MossError | None = None

    async def reserve(self, amount: Spend) -> None:
        """Set the worst case of one request aside.

        Raises:
            BudgetError: the cap leaves no room for it.
        """
        if self._error is not None:
            raise self._error
        self._last_request = amount
        if not self._waiting and amount.fits(self._free):
            self._free -= amount
            return
        if self._trading is None:
            self._trading = asyncio.create_task(self._trade_until_closed())
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.append((waiting, amount))
        self._is_wanted.set()
        try:
            async with asyncio.timeout(WAIT_LIMIT_S):
                await waiting
        except TimeoutError as error:
            raise BudgetError(
                f"the rest of the budget was set aside for {WAIT_LIMIT_S:g} s by requests that "
                "nobody settled; run again, paid answers are kept"
            ) from error
        except asyncio.CancelledError:
            if waiting.done() and not waiting.cancelled() and waiting.exception() is None:
                self._free += amount
            raise

    def settle(self, reserved: Spend, spent: Spend) -> None:
        """Put a reservation back, less what was really spent."""
        self._free += reserved - spent
        self._spent += spent
        self._serve_waiting()

    def fail(self, error: MossError) -> None:
        """Every request that waits, or will, gets `error`."""
        self._error = error
        for waiting, _ in self._waiting:
            if not waiting.done():
                waiting.set_exception(error)
        self._waiting.clear()

    async def close(self) -> Trade | None:
        """Stop trading; what is left to tell the keeper, None if it was never asked."""
        if self._trading is None:
            return None
        self._trading.cancel()
        await asyncio.gather(self._trading, return_exceptions=True)
        spent, self._spent = self._spent, Spend()
        return Trade(self._holder, spent=spent)

    async def _trade_until_closed(self) -> None:
        try:
            while True:
                loan = await self._trade(self._report())
                self._free += loan.lent
                self._is_scarce = loan.is_scarce
                if loan.refusal and self._waiting:
                    waiting, _ = self._waiting.popleft()
                    if not waiting.done():
                        waiting.set_exception(BudgetError(loan.refusal))
                self._serve_waiting()
                await self._pause(loan)
        except MossError as error:
            self.fail(error)

    async def _pause(self, loan: Loan) -> None:
        if self._waiting:
            await asyncio.sleep(WAIT_PERIOD_S if loan.must_wait else 0)
            return
        self._is_wanted.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(TRADE_PERIOD_S):
                await self._is_wanted.wait()

    def _report(self) -> Trade:
        while self._waiting and self._waiting[0][0].done():  # cancelled
            self._waiting.popleft()
        request = self._waiting[0][1] if self._waiting else Spend()
        # Where money is scarce nobody sits on a part too small to use: two could wait for ever.
        returned = self._surplus() if self._is_scarce or not self._waiting else Spend()
        self._free -= returned
        spent, self._spent = self._spent, Spend()
        missing = _positive(request - self._free)
        return Trade(self._holder, spent, returned, request, missing)

    def _surplus(self) -> Spend:
        """What the caller can do without until the next trade."""
        if self._is_scarce:
            return _positive(self._free)
        return _positive(self._free - self._last_request * LOAN_REQUESTS)

    def _serve_waiting(self) -> None:
        while self._waiting and self._waiting[0][1].fits(self._free):
            waiting, amount = self._waiting.popleft()
            if not waiting.done():
                self._free -= amount
                waiting.set_result(None)


def _positive(amount: Spend) -> Spend:
    return Spend(max(amount.tokens, 0), max(amount.usd, type(amount.usd)(0)))
