"""Three rules that divide an endpoint's limits: a rate in blocks, an adapting cap, fair shares."""

from __future__ import annotations

from collections.abc import Mapping

RENEW_PERIOD_S = 0.25
"""How often callers report; a block of permits covers this long."""
CUT = 0.75
CUT_EVERY_S = 1.0
"""Overloads come in bursts; one burst is answered by one cut."""
CUT_FROM_SHARE = 0.1
"""Share of overloads from which the number in flight is cut. Below it a refusal costs next to
nothing, and cutting would cost more than it saves."""
CUT_FROM_OVERLOADS = 5
RAISE_AFTER = 25


class RateBucket:
    """A rate per minute, handed out in blocks; unused permits may come back.

    The level may go below zero, because a request's tokens are known only once it is sent.
    """

    def __init__(self) -> None:
        self.per_minute: float | None = None
        self._level = 0.0
        self._filled_at = 0.0

    def set_rate(self, per_minute: float | None, *, now: float) -> None:
        """Change the rate; a rate that was unknown starts with one block."""
        if per_minute == self.per_minute:
            return
        if self.per_minute is None and per_minute is not None:
            self._level, self._filled_at = max(1.0, per_minute / 60 * RENEW_PERIOD_S), now
        self.per_minute = per_minute

    def cap_level(self, remaining: float) -> None:
        """The endpoint says that so much is left right now."""
        self._level = min(self._level, remaining)

    def give_back(self, amount: float) -> None:
        """Take permits back that nobody used (or a debt, if negative)."""
        self._level += amount

    def take(self, share: float, *, now: float) -> float | None:
        """A part of what is there, whole permits only; None without a rate."""
        if self.per_minute is None:
            return None
        rate_per_s = self.per_minute / 60
        filled = self._level + rate_per_s * max(0.0, now - self._filled_at)
        self._filled_at = now
        self._level = min(filled, max(1.0, 2 * RENEW_PERIOD_S * rate_per_s))
        if share <= 0 or self._level < 1:
            return 0.0
        taken = min(float(int(self._level)), max(1.0, float(int(self._level * share))))
        self._level -= taken
        return taken


class Adaptation:
    """Additive increase, multiplicative decrease of the number in flight, below a cap."""

    def __init__(self) -> None:
        self.current = float("inf")
        self._num_answered = self._num_overloaded = 0
        self._cut_at = float("-inf")

    def observe(self, *, answered: int, overloaded: int, in_use: int, cap: int, now: float) -> None:
        """Count outcomes; at most one change.

        Args:
            in_use: requests in flight over all callers.
            cap: slots that the runs allow together.
        """
        self._num_answered += answered
        self._num_overloaded += overloaded
        seen = self._num_answered + self._num_overloaded
        overload_share = self._num_overloaded / seen if seen else 0.0
        # A handful of refusals is no sign yet, unless nothing else comes back.
        is_sign = self._num_overloaded >= CUT_FROM_OVERLOADS or not self._num_answered
        is_burst = overloaded > 0 and is_sign and overload_share > CUT_FROM_SHARE
        if is_burst and now - self._cut_at >= CUT_EVERY_S:
            self.current = max(1.0, min(self.current, cap, max(in_use, 1)) * CUT)
            self._cut_at = now
            self._num_answered = self._num_overloaded = 0
        elif self._num_answered >= RAISE_AFTER:
            self.current = min(self.current + self._num_answered // RAISE_AFTER, float(cap))
            self._num_answered %= RAISE_AFTER
            self._num_overloaded = 0


def fair_share(cap: int, demands: Mapping[str, int], holder: str) -> int:
    """Max-min fair part of `cap` for one holder: what small demands leave, large ones share.

    A holder alone gets the whole cap whatever it asks for, and one that asks for nothing beside
    others gets nothing; both keep requests from waiting for a grant that is free.
    """
    if len(demands) == 1:
        return cap
    left, waiting = cap, sorted(demands.items(), key=lambda item: (item[1], item[0]))
    for position, (name, demand) in enumerate(waiting):
        # The last part is rounded up, so that nothing stays unused.
        part = min(demand, -(-left // (len(waiting) - position)))
        if name == holder:
            return part
        left -= part
    raise AssertionError(f"holder {holder!r} has no demand")
