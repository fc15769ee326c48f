"""Where the service's metrics go: to Ray, which gives them to Prometheus, or nowhere.

A process of the service calls `export_to_ray` once; code that runs in several kinds of process
(store, tools) then needs no object handed through to count what it sees.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from moss.live_metrics import SERVICE_SERIES, Series
from moss.metrics import prometheus_name

if TYPE_CHECKING:
    from ray.util.metrics import Metric


class Meters(Protocol):
    """Takes measurements."""

    def record(self, series: Series, value: float, labels: dict[str, str]) -> None:
        """Add to a counter, set a gauge, or observe a value of a histogram."""
        ...


class _RayMeters:
    """Ray's metrics of this process."""

    def __init__(self) -> None:
        self._made = {series.name: _ray_metric(series) for series in SERVICE_SERIES}

    def record(self, series: Series, value: float, labels: dict[str, str]) -> None:
        from ray.util.metrics import Counter, Gauge, Histogram

        metric = self._made[series.name]
        match metric:
            case Counter():
                metric.inc(value, tags=labels)
            case Gauge():
                metric.set(value, tags=labels)
            case Histogram():
                metric.observe(value, tags=labels)


def _ray_metric(series: Series) -> Metric:
    from ray.util.metrics import Counter, Gauge, Histogram

    name = prometheus_name(series.name)
    match series.kind:
        case "counter":
            return Counter(name, series.about, series.labels)
        case "gauge":
            return Gauge(name, series.about, series.labels)
    return Histogram(name, series.about, boundaries=list(series.bounds), tag_keys=series.labels)


_meters: Meters | None = None


def export_to_ray() -> None:
    """Let this process, which is a Ray worker, export what it measures."""
    record_in(_RayMeters())


def record_in(meters: Meters | None) -> None:
    """Send measurements to `meters` from now on; None for nowhere, as it is at first."""
    global _meters
    _meters = meters


def count(series: Series, amount: float = 1.0, **labels: str) -> None:
    """Add to a counter; nothing happens for 0."""
    if _meters is not None and amount:
        _meters.record(series, amount, labels)


def measure(series: Series, value: float, **labels: str) -> None:
    """Set a gauge, or observe a value of a histogram."""
    if _meters is not None:
        _meters.record(series, value, labels)
