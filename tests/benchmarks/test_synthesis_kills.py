"""kill -9 of each part of a job: the resumed output is whole, and little is sold again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.fake_endpoint import Running, running
from benchmarks.synthesis_kills import CONCURRENCY, LATENCY_S, Victim, round_of, undisturbed

pytestmark = [pytest.mark.ray, pytest.mark.slow]

NUM_CALLS = 120


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Running]:
    with running("--latency-s", str(LATENCY_S)) as started:
        yield started


@pytest.fixture(scope="module")
def expected(endpoint: Running) -> list[dict[str, object]]:
    return undisturbed(endpoint, NUM_CALLS)


@pytest.mark.parametrize("victim", ["caller", "node", "driver"])
def test_a_kill_loses_no_row_and_sells_only_what_was_in_flight_again(
    endpoint: Running, expected: list[dict[str, object]], victim: Victim
) -> None:
    assert len(expected) == NUM_CALLS
    outcome = round_of(endpoint, victim, NUM_CALLS, expected)
    assert outcome["equal"]
    assert int(str(outcome["sold_again"])) <= CONCURRENCY
