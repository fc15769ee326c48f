"""What an endpoint's limiter tells Prometheus, through Ray: attempts, and who waits for a slot."""

from __future__ import annotations

from moss.endpoint_limits import CallerReport, EndpointLimits
from moss.live_metrics import (
    ENDPOINT_ATTEMPTS,
    ENDPOINT_IN_FLIGHT,
    ENDPOINT_SLOTS,
    ENDPOINT_WAITING,
    Series,
)
from moss.metrics import prometheus_name


class LimiterMetrics:
    """The series of one endpoint; callers report to its limiter, so they need none of their own."""

    def __init__(self) -> None:
        from ray.util.metrics import Counter, Gauge

        attempts = ENDPOINT_ATTEMPTS
        self._attempts = Counter(
            prometheus_name(attempts.name), attempts.about, tag_keys=attempts.labels
        )

        def gauge(series: Series) -> Gauge:
            return Gauge(prometheus_name(series.name), series.about)

        self._in_flight = gauge(ENDPOINT_IN_FLIGHT)
        self._waiting = gauge(ENDPOINT_WAITING)
        self._slots = gauge(ENDPOINT_SLOTS)

    def observe(self, report: CallerReport, limits: EndpointLimits) -> None:
        """Take what a report adds, and the state after it."""
        ended = {
            "answered": report.num_answered,
            "overloaded": report.num_overloaded,
            "failed": report.num_failed,
        }
        for outcome, number in ended.items():
            if number:
                self._attempts.inc(number, tags={"outcome": outcome})
        self._in_flight.set(limits.num_in_flight)
        self._waiting.set(limits.num_waiting)
        self._slots.set(limits.in_flight_target)
