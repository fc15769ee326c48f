"""What each API key may still do: requests and tokens per minute, requests at once.

Token buckets: a bucket holds one minute's worth, refills evenly and is full at first. A request
takes one from the bucket of requests when it is admitted, and its tokens from the bucket of tokens
when it ends, since only then are they known; that bucket may fall into debt, and until the debt is
paid off the key's requests are refused. Levels are integers, so that nothing is lost by rounding.

One event loop uses it, without locks; each replica of the edge counts for itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from moss.config.api_keys import ApiKeyConfig
from serve.engines import TokenCount
from serve.errors import ApiError

_MILLISECOND_NS: Final = 10**6
_SECOND_NS: Final = 10**9
_MINUTE_NS: Final = 60 * _SECOND_NS


class Bucket:
    """A token bucket of `per_minute`; times are nanoseconds of one clock.

    The level counts in parts of which `_MINUTE_NS` make one: each nanosecond adds `per_minute`.
    """

    def __init__(self, per_minute: int, now: int) -> None:
        self.per_minute = per_minute
        self._level = per_minute * _MINUTE_NS
        self._at = now

    def set_rate(self, per_minute: int, now: int) -> None:
        """Go on at another rate; the level stays, or falls to what the bucket now holds."""
        self._refill(now)
        self.per_minute = per_minute
        self._level = min(self._level, per_minute * _MINUTE_NS)

    def take(self, amount: int, now: int) -> None:
        """Take so much, into debt if need be."""
        self._refill(now)
        self._level -= amount * _MINUTE_NS

    def wait_ns(self, amount: int, now: int) -> int:
        """Time until the bucket holds `amount`, rounded up."""
        self._refill(now)
        return max(0, -((self._level - amount * _MINUTE_NS) // self.per_minute))

    def remaining(self, now: int) -> int:
        """What it holds, in whole units; 0 in debt."""
        self._refill(now)
        return max(0, self._level // _MINUTE_NS)

    def _refill(self, now: int) -> None:
        gained = self.per_minute * (now - self._at)
        self._level = min(self._level + gained, self.per_minute * _MINUTE_NS)
        self._at = now


@dataclass(slots=True)
class _Use:
    """What one key may do and has used."""

    key: ApiKeyConfig
    requests: Bucket | None = None
    tokens: Bucket | None = None
    num_ongoing: int = 0


class KeyLimits:
    """The limits of all keys that were seen."""

    def __init__(
        self, *, retry_after_s: int, clock_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        """Nothing is used yet.

        Args:
            retry_after_s: what a key is told that has `max_ongoing` requests running, for nobody
                knows when one of them will end.
            clock_ns: a clock that never goes back, in nanoseconds.
        """
        self._retry_after_s = retry_after_s
        self._clock_ns = clock_ns
        self._uses: dict[str, _Use] = {}

    def update(self, key: ApiKeyConfig) -> None:
        """Take a key's limits from its entry; the other methods go by those.

        Entries change while requests run, which know the old one. What was used stays used.
        """
        now = self._clock_ns()
        use = self._uses.setdefault(key.sha256, _Use(key))
        use.key = key
        use.requests = _bucket(use.requests, key.requests_per_minute, now)
        use.tokens = _bucket(use.tokens, key.tokens_per_minute, now)

    def admit(self, key: ApiKeyConfig) -> None:
        """Count a request in; `settle` must follow.

        Raises:
            ApiError: 429, nothing was counted. Retry-After is the longest wait of all limits that
                are reached, so that a request alone is admitted after it.
        """
        now = self._clock_ns()
        use = self._uses[key.sha256]
        most = use.key.max_ongoing
        waits: dict[str, int] = {}
        if most is not None and use.num_ongoing >= most:
            waits["max_ongoing"] = self._retry_after_s * _SECOND_NS
        if use.requests is not None:
            waits["requests_per_minute"] = use.requests.wait_ns(1, now)
        if use.tokens is not None:
            waits["tokens_per_minute"] = use.tokens.wait_ns(0, now)
        limit = max(waits, key=waits.__getitem__, default="")
        if limit and waits[limit]:
            seconds = -(-waits[limit] // _SECOND_NS)
            raise ApiError(
                429, f"this API key has reached {limit}={getattr(use.key, limit)}; try again in "
                f"{seconds} s", code=f"{limit}_reached", retry_after_s=seconds,
            )  # fmt: skip
        use.num_ongoing += 1
        if use.requests is not None:
            use.requests.take(1, now)

    def settle(self, key: ApiKeyConfig, num_tokens: int) -> None:
        """A request that was admitted has ended, however it ended, and used so many tokens."""
        use = self._uses[key.sha256]
        use.num_ongoing -= 1
        if use.tokens is not None:
            use.tokens.take(num_tokens, self._clock_ns())

    @contextmanager
    def admitted(self, key: ApiKeyConfig, count: TokenCount) -> Iterator[None]:
        """`admit`, and at the end of the block `settle` with what `count` has by then."""
        self.admit(key)
        try:
            yield
        finally:
            self.settle(key, count.total)

    def headers(self, key: ApiKeyConfig) -> dict[str, str]:
        """`x-ratelimit-*` of the limits that the key has; a reset is when its bucket is full."""
        now = self._clock_ns()
        use = self._uses[key.sha256]
        headers: dict[str, str] = {}
        for name, bucket in (("requests", use.requests), ("tokens", use.tokens)):
            if bucket is not None:
                full_ms = -(-bucket.wait_ns(bucket.per_minute, now) // _MILLISECOND_NS)
                headers[f"x-ratelimit-limit-{name}"] = str(bucket.per_minute)
                headers[f"x-ratelimit-remaining-{name}"] = str(bucket.remaining(now))
                headers[f"x-ratelimit-reset-{name}"] = f"{full_ms / 1000:.3f}s"
        return headers


def _bucket(bucket: Bucket | None, per_minute: int | None, now: int) -> Bucket | None:
    if per_minute is None:
        return None
    if bucket is None:
        return Bucket(per_minute, now)
    bucket.set_rate(per_minute, now)
    return bucket
