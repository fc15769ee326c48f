"""What each way a request can fail means: try again, give the row up, or end the run.

retry       429, 408, 409, 5xx, timeouts, cut connections, bodies that are not the protocol's
row         400, 413, 422: this request is refused, others may pass
run         401, 403 (key), 404 (model or address), quota used up: no retry can cure it
"""

from __future__ import annotations

from dataclasses import dataclass

import openai

from moss.config.teacher import TeacherConfig
from moss.errors import (
    TeacherAuthError,
    TeacherError,
    TeacherQuotaError,
    TeacherResponseError,
    TeacherUnavailableError,
)

QUOTA_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached", "quota_exceeded"})


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed attempt."""

    error: TeacherError
    """What to raise if no further attempt is made."""
    is_retryable: bool
    retry_after_s: float | None = None
    """The endpoint's own wish, from the Retry-After header."""


def classify(error: openai.OpenAIError, *, model: str, config: TeacherConfig) -> Failure:
    """Turn the client's exception into a `Failure` that says what to do."""
    address = config.base_url or "the default endpoint"
    if isinstance(error, openai.APIStatusError):
        return _classify_status(error, model=model, address=address, config=config)
    cause = _root_cause(error)
    if isinstance(error, openai.APITimeoutError) and not _is_connection_fault(cause):
        reason = f"{address} gave no answer within {config.timeout_s:g} s (teacher.timeout_s)"
    else:
        reason = f"cannot reach {address}: {str(cause) or type(cause).__name__}"
    advice = "check that the server runs and that teacher.base_url or TEACHER_BASE_URL names it"
    return Failure(TeacherUnavailableError(f"{reason}; {advice}"), is_retryable=True)


def malformed(what: str, *, model: str) -> Failure:
    """A 200 answer whose body is not the protocol's."""
    return Failure(
        TeacherResponseError(f"model {model!r} sent a malformed answer: {what[:200]}"),
        is_retryable=True,
    )


def _classify_status(
    error: openai.APIStatusError, *, model: str, address: str, config: TeacherConfig
) -> Failure:
    status = error.status_code
    detail = _detail(error)
    if status in (401, 403):
        return Failure(_auth_error(address, status, detail, config), is_retryable=False)
    if status == 404:
        return Failure(
            TeacherUnavailableError(
                f"{address} knows no model {model!r}, or has no such route ({detail}); set "
                "teacher.models to names it lists under /models"
            ),
            is_retryable=False,
        )
    if status == 402 or (status == 429 and error.code in QUOTA_CODES):
        return Failure(
            TeacherQuotaError(
                f"the account at {address} has no quota left ({detail}); top it up or use another "
                "key, then run again: paid answers are kept"
            ),
            is_retryable=False,
        )
    if status in (408, 409, 429) or status >= 500:
        return Failure(
            TeacherUnavailableError(f"{address} answered {status} ({detail})"),
            is_retryable=True,
            retry_after_s=_retry_after_s(error),
        )
    return Failure(
        TeacherResponseError(f"{address} refused the request with {status} ({detail})"),
        is_retryable=False,
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


def _retry_after_s(error: openai.APIStatusError) -> float | None:
    try:
        return max(0.0, float(error.response.headers["retry-after"]))
    except (KeyError, ValueError):
        return None


def _root_cause(error: BaseException) -> BaseException:
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return error


def _is_connection_fault(cause: BaseException) -> bool:
    """The aiohttp transport reports refused connections as timeouts; the cause tells them apart."""
    return isinstance(cause, OSError) and not isinstance(cause, TimeoutError)
