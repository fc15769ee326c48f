"""What all callers of one endpoint may do together: slots in flight, requests, tokens a minute.

Nothing here waits or knows of Ray. Each caller reports a few times a second what it did and what it
wants (`CallerReport`), and learns what it may do until the next report (`Grant`), so a request
costs no remote call. Below the configured cap the number in flight adapts: one cut when a
noticeable share of answers is an overload, one slot more per `RAISE_AFTER` answers. Runs that ask
the same endpoint share the cap; a holder that stays silent is taken for dead.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

from moss.config.teacher import TeacherConfig
from moss.pacing import RENEW_PERIOD_S as RENEW_PERIOD_S
from moss.pacing import Adaptation, RateBucket, fair_share
from moss.rate_headers import RateHints


@dataclass(frozen=True, slots=True)
class RunLimits:
    """What one run's config says of the endpoint."""

    concurrency: int
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    breaker_s: float = 60.0

    @classmethod
    def of(cls, config: TeacherConfig) -> Self:
        """The limits of a teacher config."""
        return cls(
            concurrency=config.concurrency,
            requests_per_minute=config.requests_per_minute,
            tokens_per_minute=config.tokens_per_minute,
            breaker_s=config.breaker_s,
        )


@dataclass(frozen=True, slots=True)
class CallerReport:
    """What one caller did since its last report, and what it wants."""

    holder: str
    run: str
    limits: RunLimits
    in_use: int = 0
    """Requests in flight."""
    wanted: int = 0
    """Requests waiting for permission."""
    unused_requests: float = 0.0
    """Permits of the last grant that are handed back."""
    unused_tokens: float = 0.0
    """The same for tokens; negative when a request took more than was left."""
    num_answered: int = 0
    num_overloaded: int = 0
    num_failed: int = 0
    """Failed attempts that another attempt may cure, overloads apart."""
    last_cause: str = ""
    hints: RateHints | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """What a caller may do until its next report."""

    slots: int
    """Requests in flight."""
    requests: float | None = None
    """Requests to start; None where no rate is known."""
    tokens: float | None = None
    stop: str = ""
    """Why no request may be sent any more; empty while the endpoint works."""


@dataclass(slots=True)
class _Holder:
    report: CallerReport
    seen_at: float
    granted: int = 0

    @property
    def demand(self) -> int:
        return self.report.in_use + self.report.wanted


@dataclass(slots=True)
class _Breaker:
    """Opens when attempts have failed for `breaker_s` without one answer in between."""

    failing_since: float | None = None
    cause: str = ""
    runs: set[str] = field(default_factory=set)

    def observe(self, report: CallerReport, now: float) -> None:
        if report.run not in self.runs:  # a resumed or second run gets its own patience
            self.runs.add(report.run)
            self.failing_since, self.cause = None, ""
        if report.num_answered:
            self.failing_since, self.cause = None, ""
        elif report.num_failed or report.num_overloaded:
            if self.failing_since is None:
                self.failing_since = now
            elif now - self.failing_since >= report.limits.breaker_s:
                self.cause = report.last_cause or "no cause was reported"


class EndpointLimits:
    """The shared state of one endpoint.

    The sum of slots granted never passes the cap, nor does a run's sum pass its own concurrency: a
    share shrinks only when its holder reports and so learns of it, and others grow only into what
    is free.
    """

    def __init__(self, *, lease_s: float = 10.0) -> None:
        self._lease_s = lease_s
        self._holders: dict[str, _Holder] = {}
        self._requests = RateBucket()
        self._tokens = RateBucket()
        self._adaptation = Adaptation()
        self._breaker = _Breaker()
        self._hints = RateHints()

    def renew(self, report: CallerReport, *, now: float) -> Grant:
        """Take a report, answer with a grant (slots never below what is in use)."""
        self._drop_silent(now)
        holder = self._holders.setdefault(report.holder, _Holder(report, now))
        holder.report, holder.seen_at = report, now
        self._breaker.observe(report, now)
        self._requests.give_back(report.unused_requests)
        self._tokens.give_back(report.unused_tokens)
        self._take_hints(report.hints, now)
        self._adaptation.observe(
            answered=report.num_answered,
            overloaded=report.num_overloaded,
            in_use=self.num_in_flight,
            cap=self._cap(),
            now=now,
        )
        holder.granted = self._slots(holder)
        share = self._share_of_wanted(report)
        return Grant(
            slots=holder.granted,
            requests=self._requests.take(share, now=now),
            tokens=self._tokens.take(share, now=now),
            stop=self._breaker.cause,
        )

    def release(self, holder: str) -> None:
        """Forget a holder; its slots are free."""
        self._holders.pop(holder, None)

    @property
    def holders(self) -> int:
        """Callers that have reported and not left."""
        return len(self._holders)

    @property
    def total_granted(self) -> int:
        """Sum of all slots granted."""
        return sum(holder.granted for holder in self._holders.values())

    @property
    def num_in_flight(self) -> int:
        """Requests under way, by the last reports."""
        return sum(holder.report.in_use for holder in self._holders.values())

    @property
    def num_waiting(self) -> int:
        """Requests that wait for a slot, by the last reports."""
        return sum(holder.report.wanted for holder in self._holders.values())

    @property
    def in_flight_target(self) -> int:
        """Slots that are handed out at most, after adaptation."""
        return max(1, int(min(self._cap(), self._adaptation.current)))

    def drop_silent(self, *, now: float) -> int:
        """Forget dead holders; returns how many are left."""
        self._drop_silent(now)
        return len(self._holders)

    def _drop_silent(self, now: float) -> None:
        for name in [n for n, h in self._holders.items() if now - h.seen_at > self._lease_s]:
            self.release(name)

    def _cap(self) -> int:
        """The widest of the runs: each alone was allowed that many, and they share it."""
        return max((h.report.limits.concurrency for h in self._holders.values()), default=1)

    def _slots(self, holder: _Holder) -> int:
        report = holder.report
        others = [other for other in self._holders.values() if other is not holder]
        own_run = [other for other in others if other.report.run == report.run]
        free = min(
            self.in_flight_target - sum(other.granted for other in others),
            report.limits.concurrency - sum(other.granted for other in own_run),
        )
        fair = fair_share(
            self.in_flight_target,
            {name: item.demand for name, item in self._holders.items()},
            report.holder,
        )
        return max(report.in_use, min(fair, free), 0)

    def _share_of_wanted(self, report: CallerReport) -> float:
        wanted = sum(item.report.wanted for item in self._holders.values())
        return report.wanted / wanted if wanted else 1 / len(self._holders)

    def _take_hints(self, hints: RateHints | None, now: float) -> None:
        limits = [item.report.limits for item in self._holders.values()]
        self._hints = self._hints.updated(hints)
        self._requests.set_rate(
            _lowest([self._hints.requests, *(item.requests_per_minute for item in limits)]), now=now
        )
        self._tokens.set_rate(
            _lowest([self._hints.tokens, *(item.tokens_per_minute for item in limits)]), now=now
        )
        if hints is not None and hints.remaining_requests is not None:
            self._requests.cap_level(hints.remaining_requests)
        if hints is not None and hints.remaining_tokens is not None:
            self._tokens.cap_level(hints.remaining_tokens)


def _lowest(rates: list[float | None]) -> float | None:
    return min((rate for rate in rates if rate is not None), default=None)
