"""The one path by which anything asks an LLM: any OpenAI-compatible endpoint.

Every request is looked up in the ledger first and written to it before its answer is used. Between
attempts the slot is given back, so that a waiting request does not hold up others, and a retry goes
before new requests. What an attempt may cost is reserved before it is sent; what was billed without
a usable answer is charged, so that no failure can carry the spend past a cap.
"""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress
from typing import Self

from openai import APIStatusError, OpenAIError

from moss.config.teacher import TeacherConfig
from moss.errors import BudgetError, MossError, TeacherResponseError
from moss.ledger import Charge, Ledger, LedgerRecord, content_key
from moss.limits import Limits, Spend, price, worst_case_prompt_tokens
from moss.rate_headers import RateHints, rate_hints
from moss.slots import Attempt
from moss.teacher_connection import Connection
from moss.teacher_failures import Failure, Usage, classify, timed_out, too_long_a_wait
from moss.teacher_requests import Endpoint as Endpoint
from moss.teacher_requests import Message as Message
from moss.teacher_requests import TeacherAnswer as TeacherAnswer
from moss.teacher_requests import TeacherRequest as TeacherRequest
from moss.teacher_requests import read_answer

BYTES_PER_TOKEN = 4
"""Of a prompt, about: what token rates are asked for with before the answer tells."""
HALT_GRACE_S = 5.0
"""How long requests in flight may still bring their answers home once the endpoint is given up."""


class Teacher:
    """Asks one endpoint. Use as an async context manager inside one event loop.

    An error that no request can escape (key, quota, budget, endpoint gone) ends it: everything that
    waits, and every later call, gets that error.
    """

    def __init__(
        self, config: TeacherConfig, endpoint: Endpoint, *, ledger: Ledger, limits: Limits
    ) -> None:
        self._config = config
        self._endpoint = endpoint
        self._ledger = ledger
        self._limits = limits
        self._last_success_s = float("-inf")
        self._pending: dict[str, asyncio.Task[LedgerRecord]] = {}
        self._in_flight: set[asyncio.Timeout] = set()
        self._halted = asyncio.Event()
        self._halted_by: MossError | None = None
        self._connection = Connection(config)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections, hand back what the limits lent."""
        await self._limits.close()
        await self._connection.close()

    async def complete(self, request: TeacherRequest) -> TeacherAnswer:
        """Answer a request, from the ledger if it was paid before.

        Raises:
            TeacherResponseError: this request cannot be answered; others may be.
            BudgetError, TeacherAuthError, TeacherQuotaError, TeacherUnavailableError: no request
                can.
        """
        key = content_key(self._endpoint.identity, request.body(), request.sample)
        record = await self._paid_before(key)
        from_ledger = record is not None
        if record is None:
            task = self._pending.get(key)
            if task is None:
                task = asyncio.create_task(self._buy(key, request))
                self._pending[key] = task
                task.add_done_callback(lambda _: self._pending.pop(key, None))
            record = await task
        return TeacherAnswer(
            text=record.text,
            finish_reason=record.finish_reason,
            key=key,
            model=record.model,
            prompt_tokens=record.prompt_tokens,
            completion_tokens=record.completion_tokens,
            attempts=record.attempts,
            from_ledger=from_ledger,
        )

    def halt(self, error: MossError) -> None:
        """Let everything end with `error`; answers in flight still reach the ledger.

        They get `HALT_GRACE_S`, or their whole time when only our own budget is used up.
        """
        if self._halted_by is not None:
            return
        self._halted_by = error
        self._halted.set()
        self._limits.fail(error)
        if not isinstance(error, BudgetError):
            until = asyncio.get_running_loop().time() + HALT_GRACE_S
            for bound in self._in_flight:
                if not bound.expired():
                    bound.reschedule(min(until, bound.when() or until))

    async def drain(self) -> None:
        """Wait for the requests that are under way; after `halt` those in flight alone."""
        if self._pending:
            await asyncio.wait(list(self._pending.values()))

    async def _paid_before(self, key: str) -> LedgerRecord | None:
        if self._ledger.is_remote:
            return await asyncio.to_thread(self._ledger.get, key)
        return self._ledger.get(key)

    async def _buy(self, key: str, request: TeacherRequest) -> LedgerRecord:
        try:
            return await self._attempt(key, request)
        except TeacherResponseError:
            raise
        except MossError as error:
            self.halt(error)
            raise

    async def _attempt(self, key: str, request: TeacherRequest) -> LedgerRecord:
        started = time.monotonic()
        config = self._config
        worst = Usage(worst_case_prompt_tokens(request.texts()), request.max_tokens)
        num_tries = num_refusals = 0
        while True:
            num_attempts = num_tries + num_refusals + 1
            sent_at = time.monotonic()
            outcome = await self._send(key, request, num_attempts, worst)
            if isinstance(outcome, LedgerRecord):
                self._last_success_s = time.monotonic()
                return outcome
            if not outcome.is_retryable:
                raise outcome.error
            if (outcome.retry_after_s or 0) > config.max_retry_after_s:
                raise too_long_a_wait(outcome, config)
            is_refusal = outcome.kind == "overloaded"
            num_refusals += is_refusal
            num_tries += not is_refusal
            if num_tries >= config.max_attempts or num_refusals >= config.max_refusals:
                raise self._given_up(outcome.error, num_attempts, started)
            # Where others were answered meanwhile it is no outage: the first retry does not wait.
            is_alone = self._last_success_s > sent_at
            num_waits = num_refusals if is_refusal else num_tries - is_alone
            await self._wait(_backoff_s(outcome, num_waits, config))

    async def _send(
        self, key: str, request: TeacherRequest, attempt: int, worst: Usage
    ) -> LedgerRecord | Failure:
        """One attempt: slot, reservation, request, ledger; every way out hands all back."""
        tokens = worst.prompt_tokens // BYTES_PER_TOKEN + worst.completion_tokens
        await self._limits.take_slot(tokens, is_retry=attempt > 1)
        ended = Attempt("refused", tokens_asked=tokens, tokens_used=0)
        try:
            reserved = await self._reserve(key, request.model, worst)
            try:
                outcome, hints = await self._post(key, request, attempt, worst)
            except BaseException:  # cancelled in mid-flight: it may be billed
                self._limits.settle(reserved, reserved)
                raise
            ended = _ended(outcome, tokens, hints)
        finally:
            self._limits.give_slot(ended)
        await self._settle(key, request.model, reserved, outcome)
        return outcome

    async def _reserve(self, key: str, model: str, worst: Usage) -> Spend:
        if not self._config.is_capped:
            return Spend()
        reserved = price(model, worst.prompt_tokens, worst.completion_tokens, self._config)
        await self._limits.reserve(reserved)
        await self._ledger.store_sent(
            Charge(key, model, worst.prompt_tokens, worst.completion_tokens)
        )
        return reserved

    async def _settle(
        self, key: str, model: str, reserved: Spend, outcome: LedgerRecord | Failure
    ) -> None:
        used = _usage_of(outcome)
        if isinstance(outcome, LedgerRecord):
            await self._ledger.store(outcome)
        elif used is not None:
            await self._ledger.store_charge(
                Charge(key, model, used.prompt_tokens, used.completion_tokens, str(outcome.error))
            )
        elif self._config.is_capped:
            await self._ledger.store_unsold(key)
        if self._config.is_capped:
            used = used or Usage(0, 0)
            spent = price(model, used.prompt_tokens, used.completion_tokens, self._config)
            self._limits.settle(reserved, spent)

    async def _post(
        self, key: str, request: TeacherRequest, attempt: int, worst: Usage
    ) -> tuple[LedgerRecord | Failure, RateHints | None]:
        bound = asyncio.timeout(self._config.timeout_s)
        self._in_flight.add(bound)
        try:
            async with bound:
                response = await self._connection.post(request.route, request.body())
        except APIStatusError as error:
            failure = classify(error, model=request.model, config=self._config, worst=worst)
            return failure, rate_hints(error.response.headers)
        except OpenAIError as error:
            return classify(error, model=request.model, config=self._config, worst=worst), None
        except TimeoutError:
            return timed_out(self._config, worst, halted_by=self._halted_by), None
        finally:
            self._in_flight.discard(bound)
        outcome = read_answer(response.content, key, request, attempt=attempt, worst=worst)
        return outcome, rate_hints(response.headers)

    async def _wait(self, wait_s: float) -> None:
        """A pause between attempts, cut short when all is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._halted.wait()
        if self._halted_by is not None:
            raise self._halted_by

    def _given_up(self, error: MossError, attempts: int, started: float) -> MossError:
        message = f"{error} (gave up after {attempts} attempts)"
        if self._last_success_s > started:
            return TeacherResponseError(message)
        return type(error)(message)


def _usage_of(outcome: LedgerRecord | Failure) -> Usage | None:
    """What was billed; None if nothing was."""
    if isinstance(outcome, LedgerRecord):
        return Usage(outcome.prompt_tokens, outcome.completion_tokens)
    return outcome.billed


def _ended(outcome: LedgerRecord | Failure, tokens: int, hints: RateHints | None) -> Attempt:
    used = _usage_of(outcome)
    tokens_used = 0 if used is None else used.prompt_tokens + used.completion_tokens
    if isinstance(outcome, LedgerRecord):
        return Attempt("answered", tokens, tokens_used, hints=hints)
    return Attempt(outcome.kind, tokens, tokens_used, cause=str(outcome.error), hints=hints)


def _backoff_s(failure: Failure, num_waits: int, config: TeacherConfig) -> float:
    """Retry-After if given, else threefold with each wait of the kind, this one included, and none
    at 0; a random part on top spreads callers."""
    if failure.retry_after_s is not None:
        return failure.retry_after_s * (1 + random.random() / 10)
    if num_waits == 0:
        return 0.0
    base = config.backoff_s * 3.0 ** min(num_waits - 1, 99)  # a float ends at the 647th
    return min(base, config.max_backoff_s) * (1 + random.random() / 4)
