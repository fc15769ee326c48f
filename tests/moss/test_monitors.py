"""Monitors against plain loops: when they warn, when they stop, and that a replay stands alike."""

import math
import random

import numpy as np
import pytest

from moss.config.monitors import Ceiling, Floor, MonitorsConfig
from moss.monitors import Alarm, Monitors, repetition_of

HEALTHY = {
    "rollout/kl_nats": 0.5,
    "rollout/length_tokens": 20.0,
    "rollout/repetition_fraction": 0.05,
    "rollout/stopped_fraction": 0.9,
    "ppo/entropy_nats": 1.5,
}


def run(
    config: MonitorsConfig, iterations: list[dict[str, float]]
) -> tuple[list[tuple[Alarm, ...]], Alarm | None]:
    """Alarms of every iteration up to the one that stops the run, and what stopped it."""
    monitors = Monitors(config)
    alarms = []
    for step, metrics in enumerate(iterations, start=1):
        stop = monitors.observe(step, HEALTHY | metrics)
        alarms.append(monitors.alarms)
        if stop is not None:
            return alarms, stop
    return alarms, None


def test_a_healthy_run_passes_no_limit() -> None:
    alarms, stop = run(MonitorsConfig(), [{}] * 50)
    assert stop is None
    assert not any(alarms)


def test_a_kl_that_grows_warns_first_and_stops_the_run_then() -> None:
    config = MonitorsConfig(window=1, kl_nats=Ceiling(warn=2.0, stop=4.0, patience=2))
    alarms, stop = run(config, [{"rollout/kl_nats": float(kl)} for kl in range(10)])
    assert [[alarm.level for alarm in found] for found in alarms] == [
        [], [], [], ["warn"], ["warn"], ["stop"], ["stop"],
    ]  # fmt: skip
    assert stop == Alarm("kl_nats", "stop", 7, 6.0, 4.0)
    assert str(stop) == "kl_nats 6 > 4 in iteration 7"


def test_patience_counts_iterations_in_a_row() -> None:
    config = MonitorsConfig(window=1, kl_nats=Ceiling(warn=None, stop=4.0, patience=3))
    values = [5.0, 5.0, 1.0, 5.0, 5.0, 5.0]
    _, stop = run(config, [{"rollout/kl_nats": value} for value in values])
    assert stop is not None
    assert stop.step == 6


def test_the_window_keeps_one_wild_batch_from_ending_a_run() -> None:
    bound = Ceiling(warn=None, stop=4.0, patience=1)
    calm: dict[str, float] = {}
    spike = [calm] * 3 + [{"rollout/kl_nats": 7.0}] + [calm] * 3
    assert run(MonitorsConfig(window=1, kl_nats=bound), spike)[1] is not None
    assert run(MonitorsConfig(window=2, kl_nats=bound), spike)[1] is None


@pytest.mark.parametrize(
    ("metric", "value", "monitor"),
    [
        ("rollout/length_tokens", 90.0, "length_growth"),
        ("rollout/length_tokens", 3.0, "length_collapse"),
        ("rollout/repetition_fraction", 0.7, "repetition"),
        ("rollout/stopped_fraction", 0.1, "unfinished"),
    ],
)
def test_each_ruin_of_the_text_stops_the_run(metric: str, value: float, monitor: str) -> None:
    alarms, stop = run(MonitorsConfig(), [{}] * 5 + [{metric: value}] * 10)
    assert stop is not None
    assert stop.monitor == monitor
    assert not any(alarms[:5])


@pytest.mark.parametrize(
    "start",
    [
        {"rollout/repetition_fraction": 0.8},
        {"rollout/stopped_fraction": 0.0},
        {"rollout/length_tokens": 500.0},
    ],
)
def test_a_policy_that_was_so_before_trips_nothing(start: dict[str, float]) -> None:
    alarms, stop = run(MonitorsConfig(), [start] * 30)
    assert stop is None
    assert not any(alarms)


def test_a_value_that_is_no_number_passes_every_limit() -> None:
    _, stop = run(MonitorsConfig(), [{}, {"rollout/kl_nats": math.nan}])
    assert stop is not None
    assert stop.monitor == "kl_nats"


def test_a_metric_that_is_absent_is_not_watched() -> None:
    monitors = Monitors(MonitorsConfig())
    assert monitors.observe(1, {"rollout/kl_nats": 1.0}) is None
    assert monitors.alarms == ()


def test_a_monitor_can_be_switched_off() -> None:
    off = MonitorsConfig(kl_nats=Ceiling(warn=None, stop=None))
    assert run(off, [{"rollout/kl_nats": 1e9}] * 5) == ([()] * 5, None)


def test_a_replayed_run_stands_where_the_unbroken_one_stood() -> None:
    draw = random.Random(3)
    seen = [HEALTHY | {"rollout/kl_nats": draw.uniform(0, 9)} for _ in range(40)]
    config = MonitorsConfig(kl_nats=Ceiling(warn=4.0, stop=6.0, patience=99))
    whole = Monitors(config)
    expected = []
    for step, metrics in enumerate(seen, start=1):
        whole.observe(step, metrics)
        expected.append(whole.alarms)
    assert any(expected)
    resumed = Monitors(config)
    for step, metrics in enumerate(seen[:17], start=1):
        resumed.observe(step, metrics)
    for step, metrics in enumerate(seen[17:], start=18):
        resumed.observe(step, metrics)
        assert resumed.alarms == expected[step - 1]


def test_limits_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ValueError, match=r"warn=5\.0 is above stop=4\.0; a ceiling warns first"):
        Ceiling(warn=5.0, stop=4.0)
    with pytest.raises(ValueError, match=r"warn=0\.1 is below stop=0\.3; a floor warns first"):
        Floor(warn=0.1, stop=0.3)


def plain_repetition(response: list[int], n: int) -> float:
    seen, repeated, total = set(), 0, 0
    for start in range(len(response) - n + 1):
        ngram = tuple(response[start : start + n])
        repeated += ngram in seen
        seen.add(ngram)
        total += 1
    return repeated / total if total else 0.0


def test_repetition_equals_a_plain_count() -> None:
    draw = random.Random(1)
    responses = [[draw.randrange(3) for _ in range(draw.randrange(1, 30))] for _ in range(50)]
    for n in (1, 2, 4):
        expected = sum(plain_repetition(response, n) for response in responses) / len(responses)
        found = repetition_of([np.array(r, np.int64) for r in responses], ngram_tokens=n)
        assert found == pytest.approx(expected)


def test_a_loop_is_repetition_and_a_short_reply_is_not() -> None:
    loop = np.array([7, 8] * 20, np.int64)
    assert repetition_of([loop], ngram_tokens=4) == pytest.approx(35 / 37)
    assert repetition_of([np.array([1, 1, 1], np.int64)], ngram_tokens=4) == 0
    assert repetition_of([], ngram_tokens=4) == 0
