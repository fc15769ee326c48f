"""One caller's side of the limits: who may send now, who waits, and in which order.

Requests start at once while the last grant leaves room; else they wait in a queue, retries before
new requests. No remote call and no task is made per request.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from moss.endpoint_limits import RENEW_PERIOD_S, CallerReport, Grant, RunLimits
from moss.errors import MossError, TeacherUnavailableError
from moss.rate_headers import RateHints

Kind = Literal["answered", "overloaded", "failed", "refused"]
"""How an attempt ended; `refused` says something of the request only, not of the endpoint."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """How one request that held a slot ended."""

    kind: Kind
    tokens_asked: int = 0
    """What `take` was told."""
    tokens_used: int | None = None
    """What the answer says; None where there is none."""
    cause: str = ""
    hints: RateHints | None = None


class SlotQueue:
    """Hands the slots and permits of the last grant to waiting requests."""

    def __init__(self, limits: RunLimits, *, run: str = "") -> None:
        self.limits = limits
        self._run = run
        self._holder = uuid.uuid4().hex
        self._slots = 0
        self._requests: float | None = 0.0
        self._tokens: float | None = 0.0
        self._in_use = 0
        self._retries: deque[tuple[asyncio.Future[None], int]] = deque()
        self._first: deque[tuple[asyncio.Future[None], int]] = deque()
        self._error: MossError | None = None
        self.is_wanted = asyncio.Event()
        """Set when a request starts to wait; whoever renews the grant clears it."""
        self._num_answered = self._num_overloaded = self._num_failed = 0
        self._last_cause = ""
        self._hints: RateHints | None = None

    @property
    def holder(self) -> str:
        """Name of this caller at the shared limits."""
        return self._holder

    @property
    def num_waiting(self) -> int:
        """Requests in the queue."""
        return len(self._retries) + len(self._first)

    async def take(self, tokens: int, *, is_retry: bool) -> None:
        """Wait for a slot and permits.

        Raises:
            MossError: what `fail` was given.
        """
        if self._error is not None:
            raise self._error
        queue = self._retries if is_retry else self._first
        if self._may_start() and not self._retries and (is_retry or not self._first):
            self._start(tokens)
            return
        waiting = asyncio.get_running_loop().create_future()
        queue.append((waiting, tokens))
        self.is_wanted.set()
        try:
            await waiting
        except asyncio.CancelledError:
            if waiting.done() and not waiting.cancelled() and waiting.exception() is None:
                self.give(Attempt("refused", tokens_asked=tokens, tokens_used=0))
            raise

    def give(self, attempt: Attempt) -> None:
        """Hand the slot back; the next in the queue starts."""
        self._in_use -= 1
        self._num_answered += attempt.kind == "answered"
        self._num_overloaded += attempt.kind == "overloaded"
        self._num_failed += attempt.kind == "failed"
        self._last_cause = attempt.cause or self._last_cause
        self._hints = attempt.hints or self._hints
        if self._tokens is not None and attempt.tokens_used is not None:
            self._tokens += attempt.tokens_asked - attempt.tokens_used
        self._start_waiting()

    def apply(self, grant: Grant) -> None:
        """Go by a new grant."""
        self._slots = grant.slots
        # What was given or taken since the report went out still counts.
        self._requests = None if grant.requests is None else grant.requests + (self._requests or 0)
        self._tokens = None if grant.tokens is None else grant.tokens + (self._tokens or 0)
        self._start_waiting()

    def fail(self, error: MossError) -> None:
        """Every request that waits, or will, gets `error`."""
        self._error = error
        for queue in (self._retries, self._first):
            for waiting, _ in queue:
                if not waiting.done():
                    waiting.set_exception(error)
            queue.clear()

    def report(self) -> CallerReport:
        """What happened since the last report; unused permits are handed back with it."""
        report = CallerReport(
            holder=self._holder,
            run=self._run,
            limits=self.limits,
            in_use=self._in_use,
            wanted=self.num_waiting,
            unused_requests=self._requests or 0.0,
            unused_tokens=self._tokens or 0.0,
            num_answered=self._num_answered,
            num_overloaded=self._num_overloaded,
            num_failed=self._num_failed,
            last_cause=self._last_cause,
            hints=self._hints,
        )
        if self._requests is not None:
            self._requests = 0.0
        if self._tokens is not None:
            self._tokens = 0.0
        self._clear_counts()
        return report

    def _clear_counts(self) -> None:
        self._num_answered = self._num_overloaded = self._num_failed = 0
        self._last_cause = ""
        self._hints = None

    def _may_start(self) -> bool:
        return (
            self._in_use < self._slots
            and (self._requests is None or self._requests >= 1)
            and (self._tokens is None or self._tokens > 0)
        )

    def _start(self, tokens: int) -> None:
        self._in_use += 1
        if self._requests is not None:
            self._requests -= 1
        if self._tokens is not None:
            self._tokens -= tokens

    def _start_waiting(self) -> None:
        while self._may_start() and (queue := self._retries or self._first):
            waiting, tokens = queue.popleft()
            if not waiting.done():  # else its request was cancelled
                self._start(tokens)
                waiting.set_result(None)


class RenewedSlots:
    """A `SlotQueue` that keeps itself granted, by a task that lives until `close`.

    Args:
        renew: sends a report to the shared limits, returns their grant.
        endpoint: its address, for messages.
    """

    def __init__(
        self,
        queue: SlotQueue,
        renew: Callable[[CallerReport], Awaitable[Grant]],
        *,
        endpoint: str,
    ) -> None:
        self._queue = queue
        self._renew = renew
        self._endpoint = endpoint
        self._renewal: asyncio.Task[None] | None = None

    async def take(self, tokens: int, *, is_retry: bool) -> None:
        """See `SlotQueue.take`; the first request starts the renewal."""
        if self._renewal is None:
            self._renewal = asyncio.create_task(self._renew_until_closed())
        await self._queue.take(tokens, is_retry=is_retry)

    def give(self, attempt: Attempt) -> None:
        """See `SlotQueue.give`."""
        self._queue.give(attempt)

    def fail(self, error: MossError) -> None:
        """See `SlotQueue.fail`."""
        self._queue.fail(error)

    async def close(self) -> bool:
        """Stop renewing; True if anything was ever asked for."""
        if self._renewal is None:
            return False
        self._renewal.cancel()
        await asyncio.gather(self._renewal, return_exceptions=True)
        return True

    async def _renew_until_closed(self) -> None:
        try:
            while True:
                grant = await self._renew(self._queue.report())
                self._queue.apply(grant)
                if grant.stop:
                    self._queue.fail(
                        _stopped(self._endpoint, self._queue.limits.breaker_s, grant.stop)
                    )
                    return
                await self._pause()
        except MossError as error:
            self._queue.fail(error)

    async def _pause(self) -> None:
        """One period; shorter when a request begins to wait though none did at the last report."""
        if self._queue.num_waiting:
            await asyncio.sleep(RENEW_PERIOD_S)
            return
        self._queue.is_wanted.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(RENEW_PERIOD_S):
                await self._queue.is_wanted.wait()


def _stopped(endpoint: str, breaker_s: float, cause: str) -> TeacherUnavailableError:
    return TeacherUnavailableError(
        f"{endpoint} has answered nothing but failures for {breaker_s:g} s (teacher.breaker_s); "
        f"the last: {cause}. Look at the endpoint, then run again: paid answers are kept"
    )
