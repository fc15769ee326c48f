"""kill -9 of each part of a job: the resumed output is whole, and little is sold again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.fake_endpoint import Running, running
from benchmarks.synthesis_kills import (
    CONCURRENCY,
    LATENCY_S,
    Victim,
    describe_round,
    find_faults,
    round_of,
    undisturbed,
)

NUM_CALLS = 120


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Running]:
    with running("--latency-s", str(LATENCY_S)) as started:
        yield started


@pytest.fixture(scope="module")
def expected(endpoint: Running) -> list[dict[str, object]]:
    return undisturbed(endpoint, NUM_CALLS)


def test_a_round_that_lost_or_paid_too_much_is_a_fault() -> None:
    fine = {
        "equal": True, "sold_again": CONCURRENCY, "finished_without_resume": True, "killed_at": 9
    }  # fmt: skip
    rounds = [fine, fine | {"equal": False}, fine | {"sold_again": CONCURRENCY + 1}]
    assert find_faults("node", rounds) == [
        "node 2: the output differs",
        f"node 3: {CONCURRENCY + 1} answers sold again",
    ]
    assert describe_round(rounds[1], 400).startswith("killed at 9 of 400 calls, went on by itself")
    assert "OUTPUT DIFFERS" in describe_round(rounds[1], 400)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("victim", ["caller", "node", "driver"])
def test_a_kill_loses_no_row_and_sells_only_what_was_in_flight_again(
    endpoint: Running, expected: list[dict[str, object]], victim: Victim
) -> None:
    assert len(expected) == NUM_CALLS
    outcome = round_of(endpoint, victim, NUM_CALLS, expected)
    assert outcome["equal"]
    assert int(str(outcome["sold_again"])) <= CONCURRENCY
