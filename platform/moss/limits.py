"""What a run may spend: budget by reservation, and the protocol of all limits a teacher keeps.

Nothing here waits or knows of Ray. A caller reserves the worst case before it sends and settles the
true figure after, so that what was spent plus what is reserved never passes the cap, whatever the
concurrency. What the endpoint allows stands in `moss.endpoint_limits`.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from moss.config.teacher import ModelPrice, TeacherConfig
from moss.errors import BudgetError, ConfigError, MossError
from moss.slots import Attempt

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

    def __mul__(self, factor: int) -> Spend:
        return Spend(self.tokens * factor, self.usd * factor)

    def fits(self, room: Spend) -> bool:
        """Whether it is within `room`, in tokens and in money."""
        return self.tokens <= room.tokens and self.usd <= room.usd


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


def worst_case_prompt_tokens(texts: list[str]) -> int:
    """Most tokens that messages can be: a byte-level vocabulary never needs more than bytes."""
    return sum(len(text.encode()) + MESSAGE_OVERHEAD_TOKENS for text in texts)


class Budget:
    """Caps on tokens and money. `reserve` before sending, `settle` after the answer."""

    def __init__(
        self,
        *,
        tokens: int | None,
        usd: Decimal | None,
        spent: Spend | None = None,
        in_doubt: Spend | None = None,
    ) -> None:
        self._cap_tokens = tokens
        self._cap_usd = usd
        self._spent = spent or Spend()
        self._in_doubt = in_doubt or Spend()
        self._reserved = Spend()

    @property
    def is_capped(self) -> bool:
        """Whether there is any cap to keep."""
        return self._cap_tokens is not None or self._cap_usd is not None

    @property
    def spent(self) -> Spend:
        """Settled so far, earlier attempts of the run included."""
        return self._spent

    @property
    def in_doubt(self) -> Spend:
        """Worst case of what was in flight when its process died: it may have been billed."""
        return self._in_doubt

    def reserve(self, amount: Spend) -> bool:
        """Set `amount` aside; False if it must wait until requests in flight are settled.

        Raises:
            BudgetError: see `refuse_impossible`.
        """
        self.refuse_impossible(amount)
        after = self._spent + self._in_doubt + amount + self._reserved
        if self._cap_tokens is not None and after.tokens > self._cap_tokens:
            return False
        if self._cap_usd is not None and after.usd > self._cap_usd:
            return False
        self._reserved += amount
        return True

    def refuse_impossible(self, amount: Spend) -> None:
        """Refuse a request that no waiting can make possible.

        Raises:
            BudgetError: it would pass a cap even if what is in flight cost nothing.
        """
        needed = self._spent + self._in_doubt + amount
        if self._cap_tokens is not None and needed.tokens > self._cap_tokens:
            raise BudgetError(
                f"token budget used up: {self._spent.tokens:,} spent"
                f"{_set_aside(f'{self._in_doubt.tokens:,}' if self._in_doubt.tokens else '')}, "
                f"the next request may need {amount.tokens:,}, cap is {self._cap_tokens:,}; what "
                "was paid is kept: raise teacher.budget_tokens and run again to go on"
            )
        if self._cap_usd is not None and needed.usd > self._cap_usd:
            raise BudgetError(
                f"money budget used up: ${self._spent.usd:.4f} spent"
                f"{_set_aside(f'${self._in_doubt.usd:.4f}' if self._in_doubt.usd else '')}, "
                f"the next request may cost ${amount.usd:.4f}, cap is ${self._cap_usd}; what "
                "was paid is kept: raise teacher.budget_usd and run again to go on"
            )

    def settle(self, reserved: Spend, spent: Spend) -> None:
        """Turn a reservation into what was really spent (zero when nothing was sold)."""
        self._reserved -= reserved
        self._spent += spent

    def write_off(self, reserved: Spend) -> None:
        """Nobody will say any more what a reservation cost: it stays set aside."""
        self._reserved -= reserved
        self._in_doubt += reserved


def _set_aside(amount: str) -> str:
    return f" and {amount} set aside for what was in flight when a process died" if amount else ""


class Limits(Protocol):
    """What a `Teacher` asks before and after each request."""

    async def take_slot(self, tokens: int, *, is_retry: bool) -> None:
        """Wait for permission to have one more request, of about `tokens`, in flight."""

    def give_slot(self, attempt: Attempt) -> None:
        """Hand the permission back and say how the request ended."""

    async def reserve(self, amount: Spend) -> None:
        """Wait until the worst case is set aside, or raise BudgetError."""

    def settle(self, reserved: Spend, spent: Spend) -> None:
        """Report the true figure."""

    def fail(self, error: MossError) -> None:
        """Let everything that waits, or will, end with `error`."""

    async def close(self) -> None:
        """Hand everything back."""
