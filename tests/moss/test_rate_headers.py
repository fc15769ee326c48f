import pytest
from hypothesis import given
from hypothesis import strategies as st

from moss.rate_headers import RateHints, duration_s, rate_hints, retry_after_s

OPENAI = {
    "x-ratelimit-limit-requests": "5000",
    "x-ratelimit-remaining-requests": "4999",
    "x-ratelimit-reset-requests": "12ms",
    "x-ratelimit-limit-tokens": "160000",
    "x-ratelimit-remaining-tokens": "159976",
    "x-ratelimit-reset-tokens": "9ms",
}


def test_the_usual_headers_are_read() -> None:
    assert rate_hints(OPENAI) == RateHints(5000, 160000, 4999, 159976)


def test_an_endpoint_without_them_has_no_known_limit() -> None:
    assert rate_hints({"content-type": "application/json"}) is None


def test_a_daily_quota_is_not_taken_for_one_per_minute() -> None:
    daily = {**OPENAI, "x-ratelimit-limit-requests": "200", "x-ratelimit-reset-requests": "7m12s"}
    hints = rate_hints(daily)
    assert hints is not None
    assert (hints.requests, hints.tokens) == (None, 160000)


@given(st.dictionaries(st.sampled_from(sorted(OPENAI)), st.text(max_size=12)))
def test_unreadable_headers_are_passed_over(headers: dict[str, str]) -> None:
    hints = rate_hints(headers)
    assert hints is None or hints.requests or hints.tokens


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1s", 1), ("6m0s", 360), ("250ms", 0.25), ("1h2m3.5s", 3723.5), ("59.5", 59.5), ("2m", 120)],
)
def test_durations(text: str, seconds: float) -> None:
    assert duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "soon", "s", "-1"])
def test_what_is_no_duration(text: str) -> None:
    assert duration_s(text) is None


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "2"}, 2),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:10 GMT"}, 10),
        ({"retry-after": "Wed, 21 Oct 2015 07:27:00 GMT"}, 0),
        ({"retry-after-ms": "150", "retry-after": "1"}, 0.15),
        ({"retry-after": "later"}, None),
        ({"retry-after": "nan"}, None),
        ({}, None),
    ],
)
def test_retry_after_in_seconds_and_as_a_date(
    headers: dict[str, str], seconds: float | None
) -> None:
    assert retry_after_s(headers, now=1445412480.0) == seconds
