"""Limits of keys against a slow oracle, in whole fractions and with a clock of our own."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moss.config.api_keys import ApiKeyConfig
from moss.rate_headers import rate_hints
from serve.engines import TokenCount
from serve.errors import ApiError
from serve.key_limits import KeyLimits

S = 10**9
RETRY_AFTER_S = 2


class Clock:
    def __init__(self) -> None:
        self.now = 123_456_789_012_345

    def __call__(self) -> int:
        return self.now


def key(label: str = "a", **limits: Any) -> ApiKeyConfig:
    return ApiKeyConfig(sha256=label * 64, label=label, **limits)


def limits_of(*keys: ApiKeyConfig) -> tuple[KeyLimits, Clock]:
    clock = Clock()
    limits = KeyLimits(retry_after_s=RETRY_AFTER_S, clock_ns=clock)
    for item in keys:
        limits.update(item)
    return limits, clock


def refusal(limits: KeyLimits, asking: ApiKeyConfig) -> ApiError | None:
    try:
        limits.admit(asking)
    except ApiError as error:
        return error
    return None


@dataclass
class Level:
    """One bucket, moved a fraction at a time."""

    rate: int
    value: Fraction

    def wait(self, seconds: Fraction) -> None:
        self.value = min(Fraction(self.rate), self.value + Fraction(self.rate, 60) * seconds)


@dataclass
class Oracle:
    """What the limits of one key promise, as plainly as can be said."""

    asking: ApiKeyConfig
    levels: dict[str, Level] = field(default_factory=dict)
    num_ongoing: int = 0

    def update(self, asking: ApiKeyConfig) -> None:
        self.asking = asking
        for name in ("requests", "tokens"):
            rate = getattr(asking, f"{name}_per_minute")
            if rate is None:
                self.levels.pop(name, None)
            else:
                level = self.levels.setdefault(name, Level(rate, Fraction(rate)))
                level.rate, level.value = rate, min(level.value, Fraction(rate))

    def wait(self, ns: int) -> None:
        for level in self.levels.values():
            level.wait(Fraction(ns, S))

    def wait_s(self) -> Fraction:
        """Seconds until a request would be admitted; 0 if now."""
        waits = [Fraction(0)]
        needs = {"requests": 1, "tokens": 0}
        for name, level in self.levels.items():
            waits.append((needs[name] - level.value) / Fraction(level.rate, 60))
        most = self.asking.max_ongoing
        if most is not None and self.num_ongoing >= most:
            waits.append(Fraction(RETRY_AFTER_S))
        return max(waits)

    def admit(self) -> None:
        self.num_ongoing += 1
        if "requests" in self.levels:
            self.levels["requests"].value -= 1

    def headers(self) -> dict[str, str]:
        headers = {}
        for name, level in self.levels.items():
            full_ms = (level.rate - level.value) / Fraction(level.rate, 60) * 1000
            headers[f"x-ratelimit-limit-{name}"] = str(level.rate)
            headers[f"x-ratelimit-remaining-{name}"] = str(max(0, level.value // 1))
            headers[f"x-ratelimit-reset-{name}"] = f"{-(-full_ms // 1) / 1000:.3f}s"
        return headers

    def settle(self, num_tokens: int) -> None:
        self.num_ongoing -= 1
        if "tokens" in self.levels:
            self.levels["tokens"].value -= num_tokens


rates = st.none() | st.integers(1, 200)
entries = st.builds(
    lambda requests, tokens, most: key(
        requests_per_minute=requests, tokens_per_minute=tokens, max_ongoing=most
    ),
    rates, rates, st.none() | st.integers(1, 4),
)  # fmt: skip
steps = st.one_of(
    st.tuples(st.just("wait"), st.integers(0, 100 * S)),
    st.tuples(st.just("wait"), st.integers(0, 5)),
    st.tuples(st.sampled_from(["admit", "look"]), st.just(0)),
    st.tuples(st.just("settle"), st.integers(0, 400)),
    st.tuples(st.just("update"), entries),
)


@settings(max_examples=300, deadline=None)
@given(first=entries, walk=st.lists(steps, max_size=60))
def test_any_interleaving_is_what_the_oracle_says(
    first: ApiKeyConfig, walk: list[tuple[str, Any]]
) -> None:
    limits, clock = limits_of(first)
    oracle = Oracle(first)
    oracle.update(first)
    for step, value in walk:
        match step:
            case "wait":
                clock.now += value
                oracle.wait(value)
            case "update":
                limits.update(value)
                oracle.update(value)
            case "settle" if oracle.num_ongoing:
                limits.settle(first, value)
                oracle.settle(value)
            case "admit":
                wait_s = oracle.wait_s()
                error = refusal(limits, first)
                assert (error is None) == (wait_s <= 0)
                if error is None:
                    oracle.admit()
                else:
                    assert (error.status, error.retry_after_s) == (429, -(-wait_s // 1))
            case "look":  # a step of its own, for looking fills the buckets up
                assert limits.headers(first) == oracle.headers()


@given(rate=st.integers(1, 10_000), debt=st.integers(1, 100_000))
def test_retry_after_is_enough_and_one_second_less_is_not(rate: int, debt: int) -> None:
    asking = key(tokens_per_minute=rate, requests_per_minute=10**6)
    for shorter_s in (0, 1):
        limits, clock = limits_of(asking)
        limits.admit(asking)
        limits.settle(asking, rate + debt)
        error = refusal(limits, asking)
        assert error is not None
        assert error.retry_after_s is not None
        assert error.retry_after_s >= 1
        clock.now += (error.retry_after_s - shorter_s) * S
        assert (refusal(limits, asking) is None) == (shorter_s == 0)


@settings(deadline=None)
@given(rate=st.integers(1, 50), gaps=st.lists(st.integers(0, 20 * S), max_size=100))
def test_no_window_holds_more_than_a_full_bucket_and_what_came_in(
    rate: int, gaps: list[int]
) -> None:
    asking = key(requests_per_minute=rate)
    limits, clock = limits_of(asking)
    admitted: list[int] = []
    for gap in gaps:
        clock.now += gap
        if refusal(limits, asking) is None:
            admitted.append(clock.now)
    for number, start in enumerate(admitted):
        for count, end in enumerate(admitted[number:], start=1):
            assert count <= rate + Fraction(rate * (end - start), 60 * S)


def test_a_request_is_admitted_to_the_nanosecond() -> None:
    asking = key(requests_per_minute=7)
    limits, clock = limits_of(asking)
    for _ in range(7):
        limits.admit(asking)
    clock.now += 60 * S // 7  # a seventh of a minute, rounded down
    assert refusal(limits, asking) is not None
    clock.now += 1
    assert refusal(limits, asking) is None


def test_tokens_may_be_overdrawn_once_and_the_debt_is_then_paid_off() -> None:
    asking = key(tokens_per_minute=60)
    limits, clock = limits_of(asking)
    limits.admit(asking)
    limits.settle(asking, 60)
    limits.admit(asking)  # nothing left, nothing owed
    limits.settle(asking, 90)
    error = refusal(limits, asking)
    assert error is not None
    assert (error.code, error.retry_after_s) == ("tokens_per_minute_reached", 90)
    clock.now += 90 * S
    limits.admit(asking)


def test_a_refused_request_costs_nothing() -> None:
    asking = key(requests_per_minute=2, max_ongoing=1)
    limits, _ = limits_of(asking)
    limits.admit(asking)
    for _ in range(5):
        error = refusal(limits, asking)
        assert error is not None
        assert (error.code, error.retry_after_s) == ("max_ongoing_reached", RETRY_AFTER_S)
    limits.settle(asking, 0)
    limits.admit(asking)


def test_the_longest_wait_is_told() -> None:
    asking = key(requests_per_minute=1, max_ongoing=1)
    limits, _ = limits_of(asking)
    limits.admit(asking)
    error = refusal(limits, asking)
    assert error is not None
    assert (error.code, error.retry_after_s) == ("requests_per_minute_reached", 60)
    assert "requests_per_minute=1" in error.message


def test_keys_do_not_share() -> None:
    one, other = key("a", requests_per_minute=1), key("b", requests_per_minute=1)
    limits, _ = limits_of(one, other)
    limits.admit(one)
    assert refusal(limits, one) is not None
    assert refusal(limits, other) is None


def test_a_request_begun_under_an_old_entry_does_not_bring_its_limits_back() -> None:
    old, new = key(), key(tokens_per_minute=10)
    limits, _ = limits_of(old)
    limits.admit(old)
    limits.update(new)
    limits.settle(old, 11)
    error = refusal(limits, new)
    assert error is not None
    assert error.code == "tokens_per_minute_reached"


@pytest.mark.parametrize("failure", [None, RuntimeError, KeyboardInterrupt])
def test_a_block_gives_back_and_pays_however_it_ends(failure: type[BaseException] | None) -> None:
    asking = key(max_ongoing=1, tokens_per_minute=100)
    limits, _ = limits_of(asking)

    def block() -> None:
        count = TokenCount()
        with limits.admitted(asking, count):
            assert refusal(limits, asking) is not None
            count.prompt, count.completion = 30, 12
            if failure is not None:
                raise failure

    if failure is None:
        block()
    else:
        with pytest.raises(failure):
            block()
    assert limits.headers(asking)["x-ratelimit-remaining-tokens"] == "58"
    assert refusal(limits, asking) is None


def test_our_own_call_engine_reads_the_headers() -> None:
    asking = key(requests_per_minute=60, tokens_per_minute=1000)
    limits, _ = limits_of(asking)
    limits.admit(asking)
    hints = rate_hints(limits.headers(asking))
    assert hints is not None
    assert (hints.requests, hints.remaining_requests) == (60, 59)
    assert (hints.tokens, hints.remaining_tokens) == (1000, 1000)
    assert limits.headers(asking)["x-ratelimit-reset-requests"] == "1.000s"


def test_a_key_without_limits_has_no_headers() -> None:
    asking = key(max_ongoing=3)
    limits, _ = limits_of(asking)
    assert limits.headers(asking) == {}
