"""Monitors of a PPO run: is the policy still a policy, or has it begun to game its reward?

Pure: metrics of each iteration in, alarms out. The state is the metrics seen so far, so a resumed
run feeds the iterations on record once more and stands where the unbroken one stood.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from moss import metrics as names
from moss.config.monitors import Bound, Floor, MonitorsConfig

Level = Literal["warn", "stop"]


@dataclass(frozen=True, slots=True)
class Alarm:
    """A limit that was passed."""

    monitor: str
    """Key of the bound in `MonitorsConfig`."""
    level: Level
    step: int
    value: float
    limit: float

    def __str__(self) -> str:
        side = "<" if self.monitor.endswith("_collapse") else ">"
        return f"{self.monitor} {self.value:.3g} {side} {self.limit:g} in iteration {self.step}"


@dataclass(frozen=True, slots=True)
class _Reading:
    """How a monitor's value comes from a metric now and at the start."""

    metric: str
    compare: Callable[[float, float], float] | None = None
    """(now, at the start) -> the watched value; None watches the metric itself."""


def _quotient(now: float, start: float) -> float:
    # Nothing at the start leaves nothing to compare with.
    return now / start if start > 0 else 1.0


def _rise(now: float, start: float) -> float:
    return now - start


def _fall(now: float, start: float) -> float:
    return start - now


_READINGS: Mapping[str, _Reading] = {
    "kl_nats": _Reading(names.ROLLOUT_KL),
    "length_growth": _Reading(names.ROLLOUT_LENGTH, _quotient),
    "length_collapse": _Reading(names.ROLLOUT_LENGTH, _quotient),
    "repetition": _Reading(names.ROLLOUT_REPETITION, _rise),
    "unfinished": _Reading(names.ROLLOUT_STOPPED, _fall),
    "entropy_collapse": _Reading(names.PPO_ENTROPY, _quotient),
}


class Monitors:
    """The bounds of one run and what they have seen."""

    def __init__(self, config: MonitorsConfig) -> None:
        self._config = config
        self._bounds: dict[str, Bound] = {name: getattr(config, name) for name in _READINGS}
        watched = {reading.metric for reading in _READINGS.values()}
        self._start: dict[str, list[float]] = {metric: [] for metric in watched}
        self._recent = {metric: deque[float](maxlen=config.window) for metric in watched}
        self._num_passed = dict.fromkeys(_READINGS, 0)
        self.alarms: tuple[Alarm, ...] = ()
        """Of the last iteration; at most one per monitor, its worst."""

    def observe(self, step: int, metrics: Mapping[str, float]) -> Alarm | None:
        """Take in one iteration; returns the alarm that ends the run, if one does.

        A metric that is absent is not watched. One that is not a number passes every limit: a KL
        that overflowed is no reason to go on.
        """
        for metric, recent in self._recent.items():
            if metric in metrics:
                recent.append(metrics[metric])
                if len(self._start[metric]) < self._config.start_iterations:
                    self._start[metric].append(metrics[metric])
        found = [self._check(name, step) for name in _READINGS]
        self.alarms = tuple(alarm for alarm in found if alarm is not None)
        return next(
            (
                alarm
                for alarm in self.alarms
                if alarm.level == "stop"
                and self._num_passed[alarm.monitor] >= self._bounds[alarm.monitor].patience
            ),
            None,
        )

    def _check(self, name: str, step: int) -> Alarm | None:
        bound, value = self._bounds[name], self._value(name)
        if value is None:
            return None
        is_floor = isinstance(bound, Floor)
        stops = _passes(value, bound.stop, is_floor=is_floor)
        self._num_passed[name] = self._num_passed[name] + 1 if stops else 0
        if stops:
            assert bound.stop is not None, "a limit that was passed is one"
            return Alarm(name, "stop", step, value, bound.stop)
        if _passes(value, bound.warn, is_floor=is_floor):
            assert bound.warn is not None, "a limit that was passed is one"
            return Alarm(name, "warn", step, value, bound.warn)
        return None

    def _value(self, name: str) -> float | None:
        """What a monitor reads now; None before it can read."""
        reading = _READINGS[name]
        recent, start = self._recent[reading.metric], self._start[reading.metric]
        if not recent:
            return None
        now = float(np.mean(recent))
        if reading.compare is None:
            return now
        if len(start) < self._config.start_iterations:
            return None
        return reading.compare(now, float(np.mean(start)))


def _passes(value: float, limit: float | None, *, is_floor: bool) -> bool:
    if limit is None:
        return False
    return not (value >= limit if is_floor else value <= limit)


def repetition_of(responses: Sequence[npt.NDArray[np.int64]], *, ngram_tokens: int) -> float:
    """Mean share of a response's token n-grams that occurred in it before; 0 for one too short.

    Computed on token ids: text would hide repeated end markers and half characters.
    """
    shares = []
    for response in responses:
        total = len(response) - ngram_tokens + 1
        if total < 1:
            shares.append(0.0)
            continue
        windows = np.lib.stride_tricks.sliding_window_view(response, ngram_tokens)
        shares.append(1 - len(np.unique(windows, axis=0)) / total)
    return float(np.mean(shares)) if shares else 0.0
