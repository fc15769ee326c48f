"""What each way a request can fail means: try again, give the row up, or end the run.

retry       429, 408, 409, 5xx, timeouts, cut connections, bodies that are not the protocol's
row         400, 413, 422: this request is refused, others may pass
run         401, 403 (key), 404 (model or address), quota used up: no retry can cure it
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import aiohttp
import openai

from moss.config.teacher import TeacherConfig
from moss.errors import (
    MossError,
    TeacherAuthError,
    TeacherQuotaError,
    TeacherResponseError,
    TeacherUnavailableError,
)
from moss.rate_headers import retry_after_s

_LATER = "look at the server, then run again: paid answers are kept"
_LOOK = "check that the server runs and that teacher.base_url or TEACHER_BASE_URL names it"

QUOTA_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached", "quota_exceeded"})
OVERLOAD_STATUSES = frozenset({429, 503, 529})
GATEWAY_TIMEOUT = 504
"""The model behind the gateway may have answered, and billed."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed attempt."""

    error: MossError
    """What to raise if no further attempt is made."""
    kind: Literal["overloaded", "failed", "refused"]
    """`overloaded` and `failed` may pass; `refused` will not, for this request or for all."""
    retry_after_s: float | None = None
    """The endpoint's own wish, from the Retry-After header."""
    billed: Usage | None = None
    """What the attempt cost, or may have cost; None if nothing was sold."""

    @property
    def is_retryable(self) -> bool:
        """Whether another attempt makes sense."""
        return self.kind != "refused"


def classify(
    error: openai.OpenAIError, *, model: str, config: TeacherConfig, worst: Usage | None = None
) -> Failure:
    """Turn the client's exception into a `Failure` that says what to do.

    Args:
        worst: most that the request can use; charged where an answer may have been lost.
    """
    address = config.base_url or "the default endpoint"
    if isinstance(error, openai.APIStatusError):
        failure = _classify_status(error, model=model, address=address, config=config)
        is_lost = error.status_code == GATEWAY_TIMEOUT
        return replace(failure, billed=worst) if is_lost else failure
    cause = _root_cause(error)
    if isinstance(error, openai.APITimeoutError) and not _is_connection_fault(cause):
        return timed_out(config, worst)
    reason = f"cannot reach {address}: {str(cause) or type(cause).__name__}"
    return Failure(
        TeacherUnavailableError(f"{reason}; {_LOOK}"),
        kind="failed",
        billed=None if _was_never_connected(error) else worst,
    )


def timed_out(
    config: TeacherConfig, worst: Usage | None, *, halted_by: MossError | None = None
) -> Failure:
    """No answer in time, or none before the run was given up; the endpoint may still bill it."""
    if halted_by is not None:
        return Failure(halted_by, kind="refused", billed=worst)
    address = config.base_url or "the default endpoint"
    reason = f"{address} gave no answer within {config.timeout_s:g} s (teacher.timeout_s)"
    return Failure(TeacherUnavailableError(f"{reason}; {_LOOK}"), kind="failed", billed=worst)


def malformed(what: str, *, model: str, billed: Usage) -> Failure:
    """A 200 answer whose body is not the protocol's."""
    return Failure(
        TeacherResponseError(f"model {model!r} sent a malformed answer: {what[:300]}"),
        kind="failed",
        billed=billed,
    )


def too_long_a_wait(failure: Failure, config: TeacherConfig) -> TeacherUnavailableError:
    """The endpoint asks for more patience than the run has."""
    return TeacherUnavailableError(
        f"{failure.error}; it asks to wait {failure.retry_after_s:g} s, more than "
        f"teacher.max_retry_after_s={config.max_retry_after_s:g}; run again later: paid answers "
        "are kept"
    )


def _classify_status(
    error: openai.APIStatusError, *, model: str, address: str, config: TeacherConfig
) -> Failure:
    status = error.status_code
    detail = _detail(error)
    if _says_quota(error) and status in (402, 403, 429):
        return _no_quota(address, detail)
    if status in (401, 403):
        return Failure(_auth_error(address, status, detail, config), kind="refused")
    if status == 404:
        return Failure(
            TeacherUnavailableError(
                f"{address} knows no model {model!r}, or has no such route ({detail}); set "
                "teacher.models to names it serves, or correct the base URL (mostly it ends in /v1)"
            ),
            kind="refused",
        )
    if status == 402:
        return _no_quota(address, detail)
    if status in (408, 409, 429) or status >= 500:
        return Failure(
            TeacherUnavailableError(f"{address} answered {status} ({detail}); {_LATER}"),
            kind="overloaded" if status in OVERLOAD_STATUSES else "failed",
            retry_after_s=retry_after_s(error.response.headers),
        )
    return Failure(
        TeacherResponseError(f"{address} refused the request with {status} ({detail})"),
        kind="refused",
    )


def _says_quota(error: openai.APIStatusError) -> bool:
    """Some endpoints say so in the error's code, some in its type."""
    return bool(QUOTA_CODES & {error.code, error.type})


def _no_quota(address: str, detail: str) -> Failure:
    return Failure(
        TeacherQuotaError(
            f"the account at {address} has no quota left ({detail}); top it up or use another key, "
            "then run again: paid answers are kept"
        ),
        kind="refused",
    )


def _auth_error(address: str, status: int, detail: str, config: TeacherConfig) -> TeacherAuthError:
    key_state = "holds a key it refuses" if config.api_key() else "is not set"
    return TeacherAuthError(
        f"{address} answered {status} ({detail}); environment variable {config.api_key_env} "
        f"{key_state}: set it to a key that is valid there"
    )


def _detail(error: openai.APIStatusError) -> str:
    body = error.body
    message = body.get("message") if isinstance(body, dict) else None
    return str(message or error.message)[:200]


def _root_cause(error: BaseException) -> BaseException:
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return error


def _is_connection_fault(cause: BaseException) -> bool:
    """The aiohttp transport reports refused connections as timeouts; the cause tells them apart."""
    return isinstance(cause, OSError) and not isinstance(cause, TimeoutError)


def _was_never_connected(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, aiohttp.ClientConnectorError | ConnectionRefusedError):
            return True
        error = error.__cause__ or error.__context__
    return False
