"""What an endpoint says of its own limits in response headers."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")


@dataclass(frozen=True, slots=True)
class RateHints:
    """`x-ratelimit-*` headers; None where one is absent or unreadable."""

    requests: float | None = None
    """Requests per minute."""
    tokens: float | None = None
    """Tokens per minute."""
    remaining_requests: float | None = None
    remaining_tokens: float | None = None

    def updated(self, newer: RateHints | None) -> RateHints:
        """Rates of `newer` where it names them, else these."""
        if newer is None:
            return self
        return RateHints(
            requests=self.requests if newer.requests is None else newer.requests,
            tokens=self.tokens if newer.tokens is None else newer.tokens,
        )


def rate_hints(headers: Mapping[str, str]) -> RateHints | None:
    """Limits that the headers name; None when they name none (most endpoints).

    A limit whose reset lies more than two minutes away is not one per minute (daily quotas come in
    the same headers) and is left out.
    """
    if "x-ratelimit-limit-requests" not in headers and "x-ratelimit-limit-tokens" not in headers:
        return None
    requests, remaining_requests = _limit(headers, "requests")
    tokens, remaining_tokens = _limit(headers, "tokens")
    if requests is None and tokens is None:
        return None
    return RateHints(requests, tokens, remaining_requests, remaining_tokens)


def retry_after_s(headers: Mapping[str, str], *, now: float | None = None) -> float | None:
    """Seconds to wait by `retry-after-ms` or `Retry-After` (seconds or an HTTP date).

    Args:
        now: seconds since the epoch; the clock's when None.

    Returns: None if neither is there or readable; 0 for a date that has passed.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    text = headers.get("retry-after")
    seconds = _number(text)
    if seconds is not None or text is None:
        return seconds
    try:
        moment = parsedate_to_datetime(text).timestamp()
    except ValueError:
        return None
    return max(0.0, moment - (time.time() if now is None else now))


def duration_s(text: str) -> float | None:
    """Seconds in `1s`, `6m0s`, `250ms`, `1h2m3.5s` or a plain number; None if it is none."""
    found = _DURATION.fullmatch(text.strip())
    if not text.strip() or found is None or not any(found.groups()):
        return _number(text)
    hours, minutes, seconds, milliseconds = (float(part or 0) for part in found.groups())
    return hours * 3600 + minutes * 60 + seconds + milliseconds / 1000


def _limit(headers: Mapping[str, str], what: str) -> tuple[float | None, float | None]:
    limit = _number(headers.get(f"x-ratelimit-limit-{what}"))
    reset = duration_s(headers.get(f"x-ratelimit-reset-{what}", ""))
    if not limit or (reset is not None and reset > 120):
        return None, None
    return limit, _number(headers.get(f"x-ratelimit-remaining-{what}"))


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 <= value < float("inf") else None
