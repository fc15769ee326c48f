from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moss.config.teacher import ModelPrice, TeacherConfig
from moss.errors import BudgetError, ConfigError
from moss.limits import Budget, Spend, price, worst_case_prompt_tokens

PRICED = TeacherConfig(prices={"m": ModelPrice(prompt=Decimal("0.15"), completion=Decimal("0.6"))})


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 50)), max_size=40))
def test_spent_plus_reserved_never_passes_the_cap(calls: list[tuple[int, int]]) -> None:
    budget = Budget(tokens=100, usd=None)
    open_calls: list[Spend] = []
    for worst, used in calls:
        try:
            is_reserved = budget.reserve(Spend(worst))
        except BudgetError:
            assert budget.spent.tokens + worst > 100
            break
        if is_reserved:
            open_calls.append(Spend(worst))
        else:
            reserved = open_calls.pop(0)
            budget.settle(reserved, Spend(min(used, reserved.tokens)))
        in_flight = sum(call.tokens for call in open_calls)
        assert budget.spent.tokens + in_flight <= 100


def test_prices_are_exact_decimals() -> None:
    assert price("m", 1_000, 500, PRICED) == Spend(1_500, Decimal("0.00045"))
    assert price("other", 1_000, 500, PRICED) == Spend(1_500)


def test_a_money_cap_refuses_a_model_without_a_price() -> None:
    names = set(PRICED.models.values())
    prices = dict.fromkeys(names, PRICED.prices["m"])
    config = TeacherConfig(prices=prices, budget_usd=Decimal("0.1"))
    with pytest.raises(ConfigError, match="model 'x' has no price"):
        price("x", 1, 1, config)


def test_a_money_budget_stops_before_the_cap() -> None:
    budget = Budget(tokens=None, usd=Decimal("0.01"), spent=Spend(0, Decimal("0.009")))
    with pytest.raises(
        BudgetError, match=r"\$0\.0090 spent, the next .* raise teacher\.budget_usd"
    ):
        budget.reserve(Spend(1, Decimal("0.002")))


def test_what_may_have_been_billed_counts_against_the_cap_and_is_told_apart() -> None:
    budget = Budget(tokens=100, usd=Decimal("0.01"), spent=Spend(50), in_doubt=Spend(30))
    assert budget.reserve(Spend(20))
    budget.write_off(Spend(20))
    assert (budget.spent, budget.in_doubt) == (Spend(50), Spend(50))
    with pytest.raises(BudgetError, match="50 spent and 50 set aside for what was in flight"):
        budget.reserve(Spend(1))
    budget = Budget(tokens=None, usd=Decimal("0.01"), in_doubt=Spend(0, Decimal("0.009")))
    with pytest.raises(BudgetError, match=r"\$0\.0000 spent and \$0\.0090 set aside"):
        budget.reserve(Spend(1, Decimal("0.002")))


def test_the_worst_case_counts_bytes_not_characters() -> None:
    assert worst_case_prompt_tokens(["你好"]) >= 6
