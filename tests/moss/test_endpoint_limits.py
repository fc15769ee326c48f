"""The shared limits of one endpoint: sums never pass the caps, whatever callers do."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moss.endpoint_limits import CallerReport, EndpointLimits, RunLimits
from moss.pacing import RateBucket, fair_share
from moss.rate_headers import RateHints

LIMITS = RunLimits(concurrency=64)


def report(holder: str, limits: RunLimits = LIMITS, **values: object) -> CallerReport:
    fields = {"run": "run", "wanted": 500, **values}
    return CallerReport(holder=holder, limits=limits, **fields)  # type: ignore[arg-type]


@given(
    cap=st.integers(1, 40),
    other=st.integers(1, 40),
    steps=st.lists(
        st.tuples(
            st.sampled_from("abcde"), st.integers(0, 10), st.integers(0, 30), st.integers(0, 9)
        ),
        max_size=60,
    ),
)
def test_slots_never_add_up_to_more_than_the_caps(
    cap: int, other: int, steps: list[tuple[str, int, int, int]]
) -> None:
    shared = EndpointLimits()
    caps = {"one": cap, "two": other}
    granted: dict[str, int] = {}
    for now, (holder, wish, wanted, overloaded) in enumerate(steps):
        run = "one" if holder in "abc" else "two"
        in_use = min(wish, granted.get(holder, 0))
        grant = shared.renew(
            report(
                holder,
                RunLimits(concurrency=caps[run]),
                run=run,
                in_use=in_use,
                wanted=wanted,
                num_overloaded=overloaded,
            ),
            now=now / 100,
        )
        granted[holder] = grant.slots
        assert shared.total_granted == sum(granted.values()) <= max(caps.values())
        assert granted[holder] >= in_use
        for name in caps:
            of_run = [n for h, n in granted.items() if (h in "abc") == (name == "one")]
            assert sum(of_run) <= caps[name]


@given(st.integers(1, 50), st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 60)))
def test_fair_shares_fit_and_leave_nothing_that_is_wanted(
    cap: int, demands: dict[str, int]
) -> None:
    if len(demands) < 2:
        return
    parts = {name: fair_share(cap, demands, name) for name in demands}
    assert sum(parts.values()) == min(cap, sum(demands.values()))
    assert all(parts[name] <= demands[name] for name in demands)
    smallest_unmet = min((parts[n] for n in demands if parts[n] < demands[n]), default=cap)
    assert all(part <= smallest_unmet + 1 for part in parts.values())


def test_two_callers_end_with_equal_shares() -> None:
    shared = EndpointLimits()
    assert shared.renew(report("a"), now=0).slots == 64
    assert shared.renew(report("b"), now=0).slots == 0
    assert shared.renew(report("a", in_use=20), now=1).slots == 32
    assert shared.renew(report("b"), now=1).slots == 32


def test_two_jobs_share_what_the_wider_one_may_do_alone() -> None:
    shared = EndpointLimits()
    narrow = RunLimits(concurrency=8)
    for now in range(3):
        wide = shared.renew(report("a", run="one", in_use=0), now=now)
        other = shared.renew(report("b", narrow, run="two", in_use=0), now=now)
    assert (wide.slots, other.slots) == (56, 8) or (wide.slots, other.slots) == (32, 8)
    assert wide.slots + other.slots <= 64


def test_a_caller_that_wants_nothing_leaves_its_share_to_others() -> None:
    shared = EndpointLimits()
    shared.renew(report("a"), now=0)
    shared.renew(report("b", wanted=0), now=0)
    assert shared.renew(report("a", in_use=64), now=0.3).slots == 64


def test_a_silent_caller_loses_its_share() -> None:
    shared = EndpointLimits(lease_s=5)
    shared.renew(report("a", in_use=64), now=0)
    assert shared.renew(report("b"), now=6).slots == 64
    assert shared.holders == 1


def test_a_burst_of_overloads_is_cut_once_and_then_grows_back() -> None:
    shared = EndpointLimits()
    shared.renew(report("a"), now=0)
    for tick in range(4):  # one burst, reported in four parts
        grant = shared.renew(report("a", in_use=64, num_overloaded=10), now=1 + tick / 10)
    assert grant.slots >= 64  # never below what is in flight
    assert shared.in_flight_target == 48
    shared.renew(report("a", in_use=40, num_answered=100), now=3)
    assert shared.in_flight_target == 52
    shared.renew(report("a", in_use=40, num_answered=100_000), now=4)
    assert shared.in_flight_target == 64


def test_a_few_refusals_among_many_answers_cut_nothing() -> None:
    shared = EndpointLimits()
    for now in range(20):
        shared.renew(report("a", in_use=60, num_answered=76, num_overloaded=4), now=now)
    assert shared.in_flight_target == 64


@given(
    rate=st.floats(6, 60_000),
    gaps=st.lists(st.tuples(st.floats(0, 2), st.floats(0, 1)), min_size=1, max_size=50),
)
def test_a_bucket_never_hands_out_more_than_its_rate(
    rate: float, gaps: list[tuple[float, float]]
) -> None:
    bucket = RateBucket()
    bucket.set_rate(rate, now=0.0)
    now = taken = 0.0
    for gap, share in gaps:
        now += gap
        taken += bucket.take(share, now=now) or 0.0
    assert taken <= rate / 60 * now + max(1.0, rate / 60 * 0.25) + 1e-6


@pytest.mark.parametrize("num_callers", [1, 3])
@pytest.mark.parametrize("rate", [30.0, 600.0, 12_000.0])
def test_callers_together_reach_the_rate_and_do_not_pass_it(num_callers: int, rate: float) -> None:
    shared = EndpointLimits()
    limits = RunLimits(concurrency=1000, requests_per_minute=rate)
    started = 0.0
    left = dict.fromkeys(range(num_callers), 0.0)
    for tick in range(240):  # one minute
        for caller in left:
            grant = shared.renew(
                report(str(caller), limits, unused_requests=left[caller] % 1), now=tick / 4
            )
            assert grant.requests is not None
            started += int(grant.requests)
            left[caller] = grant.requests
    assert 0.93 * rate <= started <= rate * 1.01 + 1


def test_unused_permits_go_to_those_who_want_them() -> None:
    shared = EndpointLimits()
    limits = RunLimits(concurrency=10, requests_per_minute=60)
    assert shared.renew(report("a", limits), now=0).requests == 1
    assert shared.renew(report("b", limits), now=0.1).requests == 0
    shared.renew(report("a", limits, wanted=0, unused_requests=1), now=0.25)
    assert shared.renew(report("b", limits), now=0.3).requests == 1


def test_headers_set_the_rate_and_the_config_can_only_lower_it() -> None:
    shared = EndpointLimits()
    assert shared.renew(report("a"), now=0).requests is None
    hints = RateHints(requests=6_000, tokens=60_000, remaining_requests=100, remaining_tokens=500)
    grant = shared.renew(report("a", hints=hints), now=1)
    assert grant.requests == 25
    assert grant.tokens == 250
    lower = replace(LIMITS, requests_per_minute=600)
    grant = shared.renew(report("a", lower, hints=hints), now=2)
    assert grant.requests is not None
    assert grant.requests <= 5


def test_nothing_left_at_the_endpoint_means_nothing_is_started() -> None:
    shared = EndpointLimits()
    shared.renew(report("a", hints=RateHints(requests=600, remaining_requests=0)), now=0)
    grant = shared.renew(report("a", hints=RateHints(requests=600, remaining_requests=0)), now=0.05)
    assert grant.requests == 0


def test_the_breaker_opens_after_failures_alone_and_names_the_cause() -> None:
    shared = EndpointLimits()
    limits = RunLimits(concurrency=4, breaker_s=60)
    failing = {"num_failed": 3, "last_cause": "it answered 500"}
    assert not shared.renew(report("a", limits, **failing), now=0).stop
    assert not shared.renew(report("a", limits), now=70).stop  # waiting is not failing
    assert not shared.renew(report("a", limits, num_answered=1, num_failed=9), now=80).stop
    assert not shared.renew(report("a", limits, **failing), now=90).stop
    assert not shared.renew(report("a", limits, **failing), now=149).stop
    assert shared.renew(report("a", limits, **failing), now=150).stop == "it answered 500"
    assert shared.renew(report("b", limits), now=151).stop == "it answered 500"


def test_a_resumed_run_finds_the_breaker_closed() -> None:
    shared = EndpointLimits()
    limits = RunLimits(concurrency=4, breaker_s=1)
    shared.renew(report("a", limits, num_failed=1), now=0)
    assert shared.renew(report("a", limits, num_failed=1), now=2).stop
    shared.release("a")
    assert not shared.renew(report("b", limits, run="again", num_failed=1), now=3).stop
