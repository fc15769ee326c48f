"""Arithmetic of what callers may do: budget by reservation, and shares of one in-flight cap.

Nothing here waits or knows of Ray. A caller reserves the worst case before it sends and settles the
true figure after, so that what was spent plus what is reserved never passes the cap, whatever the
concurrency.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from moss.config.teacher import ModelPrice, TeacherConfig
from moss.errors import ConfigError, TeacherQuotaError

MESSAGE_OVERHEAD_TOKENS = 16
"""Tokens that a chat template adds around one message, at most (role names, separators)."""


@dataclass(frozen=True, slots=True)
class Spend:
    """Tokens, and their price where it is known."""

    tokens: int = 0
    usd: Decimal = Decimal(0)

    def __add__(self, other: Spend) -> Spend:
        return Spend(self.tokens + other.tokens, self.usd + other.usd)

    def __sub__(self, other: Spend) -> Spend:
        return Spend(self.tokens - other.tokens, self.usd - other.usd)


def price(model: str, prompt_tokens: int, completion_tokens: int, config: TeacherConfig) -> Spend:
    """Cost of one call; `usd` is 0 for a model without a price unless money is capped.

    Raises:
        ConfigError: `budget_usd` is set and the model has no price.
    """
    tokens = prompt_tokens + completion_tokens
    rate: ModelPrice | None = config.prices.get(model)
    if rate is None:
        if config.budget_usd is not None:
            raise ConfigError(
                f"budget_usd={config.budget_usd} but model {model!r} has no price; add it under "
                "teacher.prices, or cap with teacher.budget_tokens"
            )
        return Spend(tokens)
    usd = rate.prompt * prompt_tokens + rate.completion * completion_tokens
    return Spend(tokens, usd / 1_000_000)


def worst_case(model: str, texts: list[str], max_tokens: int, config: TeacherConfig) -> Spend:
    """Most that a request can cost: a byte-level vocabulary never needs more tokens than bytes."""
    prompt = sum(len(text.encode()) + MESSAGE_OVERHEAD_TOKENS for text in texts)
    return price(model, prompt, max_tokens, config)


class Budget:
    """Caps on tokens and money. `reserve` before sending, `settle` after the answer."""

    def __init__(
        self, *, tokens: int | None, usd: Decimal | None, spent: Spend | None = None
    ) -> None:
        self._cap_tokens = tokens
        self._cap_usd = usd
        self._spent = spent or Spend()
        self._reserved = Spend()

    @property
    def is_capped(self) -> bool:
        """Whether there is any cap to keep."""
        return self._cap_tokens is not None or self._cap_usd is not None

    @property
    def spent(self) -> Spend:
        """Settled so far, earlier attempts of the run included."""
        return self._spent

    def reserve(self, amount: Spend) -> bool:
        """Set `amount` aside; False if it must wait until requests in flight are settled.

        Raises:
            TeacherQuotaError: it would pass a cap even if what is in flight cost nothing.
        """
        needed = self._spent + amount
        if self._cap_tokens is not None and needed.tokens > self._cap_tokens:
            raise TeacherQuotaError(
                f"token budget used up: {self._spent.tokens} spent, the next request may need "
                f"{amount.tokens}, cap is {self._cap_tokens}; what was paid is kept: raise "
                "teacher.budget_tokens and run again to go on"
            )
        if self._cap_usd is not None and needed.usd > self._cap_usd:
            raise TeacherQuotaError(
                f"money budget used up: ${self._spent.usd:.4f} spent, the next request may cost "
                f"${amount.usd:.4f}, cap is ${self._cap_usd}; what was paid is kept: raise "
                "teacher.budget_usd and run again to go on"
            )
        after = needed + self._reserved
        if self._cap_tokens is not None and after.tokens > self._cap_tokens:
            return False
        if self._cap_usd is not None and after.usd > self._cap_usd:
            return False
        self._reserved += amount
        return True

    def settle(self, reserved: Spend, spent: Spend) -> None:
        """Turn a reservation into what was really spent (zero when nothing was sold)."""
        self._reserved -= reserved
        self._spent += spent


class LeaseTable:
    """Divides one in-flight cap among callers that come and go.

    The sum of grants never passes `cap`: a share shrinks only when its holder asks again and so
    learns of it, and others grow only into what is free. A holder that stays silent for `lease_s`
    is taken for dead.
    """

    def __init__(self, cap: int, *, lease_s: float = 10.0) -> None:
        self._cap = cap
        self._lease_s = lease_s
        self._grants: dict[str, int] = {}
        self._seen: dict[str, float] = {}

    def renew(self, holder: str, *, in_use: int, now: float) -> int:
        """Slots that `holder` may use from now on (never below what it uses already)."""
        self._seen[holder] = now
        self._grants.setdefault(holder, 0)
        for other in [h for h, seen in self._seen.items() if now - seen > self._lease_s]:
            self.release(other)
        fair_share = max(1, self._cap // len(self._grants))
        free = self._cap - sum(n for h, n in self._grants.items() if h != holder)
        self._grants[holder] = max(in_use, min(fair_share, free), 0)
        return self._grants[holder]

    def release(self, holder: str) -> None:
        """Forget a holder; its slots are free."""
        self._grants.pop(holder, None)
        self._seen.pop(holder, None)

    @property
    def total_granted(self) -> int:
        """Sum of all grants."""
        return sum(self._grants.values())


BUDGET_POLL_S = 0.05
BUDGET_WAIT_S = 600.0
"""Longest wait for requests in flight to be settled; a dead caller's are settled by nobody."""


class Limits(Protocol):
    """What a `Teacher` asks before each request."""

    async def take_slot(self) -> None:
        """Wait for permission to have one more request in flight."""

    def give_slot(self) -> None:
        """Hand the permission back."""

    async def reserve(self, amount: Spend) -> None:
        """Wait until the worst case is set aside, or raise TeacherQuotaError."""

    def settle(self, reserved: Spend, spent: Spend) -> None:
        """Report the true figure."""

    async def close(self) -> None:
        """Hand everything back."""
