"""A budget lent to many callers: what was spent never passes the cap, and all of it can be used."""

import asyncio
from decimal import Decimal

import pytest

from moss.budget_shares import SILENCE_S, BudgetKeeper, BudgetShare, Loan, Trade
from moss.errors import BudgetError
from moss.limits import Budget, Spend


class Callers:
    """Some shares of one keeper, as if each were in a process of its own."""

    def __init__(self, cap: int, number: int) -> None:
        self.keeper = BudgetKeeper(Budget(tokens=cap, usd=None))
        self.cap = cap
        self.shares = [BudgetShare(self.trade) for _ in range(number)]
        self.spent = 0
        self.in_flight = 0

    async def trade(self, trade: Trade) -> Loan:
        await asyncio.sleep(0.001)  # a remote call
        return self.keeper.trade(trade, now=0.0)

    async def buy(self, share: BudgetShare, worst: int, used: int) -> bool:
        try:
            await share.reserve(Spend(worst))
        except BudgetError:
            return False
        self.in_flight += worst
        assert self.spent + self.in_flight <= self.cap
        await asyncio.sleep(0.002)
        self.in_flight -= worst
        self.spent += used
        share.settle(Spend(worst), Spend(used))
        return True

    async def close(self) -> None:
        for share in self.shares:
            if (last := await share.close()) is not None:
                self.keeper.leave(last, now=0.0)


@pytest.mark.parametrize("number", [1, 3])
async def test_spent_plus_in_flight_never_passes_the_cap(number: int) -> None:
    callers = Callers(cap=1000, number=number)
    bought = await asyncio.gather(
        *(callers.buy(callers.shares[n % number], 20 + n % 30, 10 + n % 7) for n in range(200))
    )
    await callers.close()
    assert not all(bought)
    assert callers.spent <= 1000
    assert callers.keeper.spent == Spend(callers.spent)
    # It stops because the next request might not fit, not because parts lie about unused.
    assert callers.spent > 1000 - 3 * 50


async def test_a_late_caller_gets_what_an_early_one_does_not_need() -> None:
    callers = Callers(cap=100, number=2)
    early, late = callers.shares
    assert await callers.buy(early, 10, 10)
    assert await asyncio.wait_for(callers.buy(late, 80, 80), 5)
    await callers.close()
    assert callers.keeper.spent == Spend(90)


async def test_small_parts_that_lie_with_two_callers_do_not_block_both() -> None:
    callers = Callers(cap=100, number=2)
    first, second = callers.shares
    assert all(
        await asyncio.wait_for(
            asyncio.gather(
                callers.buy(first, 60, 5), callers.buy(second, 60, 5), callers.buy(first, 60, 5)
            ),
            10,
        )
    )
    await callers.close()


def test_a_dead_callers_loan_stays_set_aside() -> None:
    keeper = BudgetKeeper(Budget(tokens=100, usd=None))
    loan = keeper.trade(Trade("dead", request=Spend(40), missing=Spend(40)), now=0)
    assert loan.lent == Spend(40)
    wanting = Trade("living", request=Spend(70), missing=Spend(70))
    assert keeper.trade(wanting, now=1).must_wait
    refusal = keeper.trade(wanting, now=SILENCE_S + 2).refusal
    assert "0 spent and 40 set aside for what was in flight when a process died, the nex" in refusal
    assert "may need 70, cap is 100" in refusal
    assert (keeper.spent, keeper.in_doubt) == (Spend(), Spend(40))


def test_money_is_lent_exactly() -> None:
    keeper = BudgetKeeper(Budget(tokens=None, usd=Decimal("0.3")))
    worst = Spend(0, Decimal("0.1"))
    for number in range(3):
        loan = keeper.trade(Trade(str(number), request=worst, missing=worst), now=0)
        assert loan.lent == worst
    assert keeper.trade(Trade("x", request=worst, missing=worst), now=0).must_wait
