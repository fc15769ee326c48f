"""Failures in OpenAI's form: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import logging
from typing import Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Match

from moss.errors import DataError, WaitTimeoutError
from serve.history import ContextLengthError
from serve.request_errors import describe, shown
from serve.request_record import current_record
from serve.store import NotStoredError, StoreUnavailableError

_TYPES = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    429: "rate_limit_error", 500: "server_error", 503: "server_error", 504: "server_error",
}  # fmt: skip
_STORE_RETRY_AFTER_S = 5
_UNSUPPORTED: Final = frozenset({"unsupported", "extra_forbidden"})
"""Kinds of errors that say nothing against a field's value."""


class ApiError(Exception):
    """An answer other than success, with its HTTP status."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        retry_after_s: int | None = None,
        allow: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s
        self.allow = allow
        """Methods that the path has, where it lacks the one that came."""

    @property
    def body(self) -> dict[str, object]:
        """The JSON body."""
        kind = _TYPES.get(self.status, "invalid_request_error")
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    def response(self) -> JSONResponse:
        """The HTTP response."""
        headers = {"retry-after": str(self.retry_after_s)} if self.retry_after_s else {}
        if self.allow:
            headers["allow"] = self.allow
        return JSONResponse(self.body, status_code=self.status, headers=headers)


def as_api_error(error: Exception) -> ApiError:
    """What a client is told about a failure, noted in the request's record."""
    told = _told(error)
    current_record().code = told.code
    return told


def _told(error: Exception) -> ApiError:
    """Unexpected failures are logged, not shown."""
    match error:
        case ApiError():
            return error
        case ContextLengthError():
            return ApiError(400, str(error), code="context_length_exceeded", param="messages")
        case NotStoredError():
            return ApiError(404, str(error), code="not_found")
        case StoreUnavailableError():
            return ApiError(
                503, str(error), code="store_unavailable", retry_after_s=_STORE_RETRY_AFTER_S
            )
        case DataError():
            return ApiError(400, str(error), code="invalid_value")
        case WaitTimeoutError():
            return ApiError(504, str(error), code="engine_timeout")
    logging.getLogger(__name__).error("request failed", exc_info=error)
    return ApiError(500, "the server failed to answer; try again", code="internal_error")


def _of_routing(request: Request, error: HTTPException) -> ApiError:
    """What a client is told that asks for a path or with a method that is not there."""
    path = shown(request.url.path)
    if error.status_code == 404:
        return ApiError(404, f"there is nothing at {path}; the API is below /v1", code="not_found")
    if error.status_code != 405:
        return ApiError(error.status_code, str(error.detail), code="http_error")
    routes = [route for route in request.app.routes if isinstance(route, APIRoute)]
    found = [route for route in routes if route.matches(request.scope)[0] != Match.NONE]
    methods = {method for route in found for method in route.methods}
    methods |= {"HEAD"} if "GET" in methods else set()  # see `serve.edge`
    allow = ", ".join(sorted(methods))
    return ApiError(
        405, f"{path} is asked with {allow}, not {shown(request.method)}",
        code="method_not_allowed", allow=allow,
    )  # fmt: skip


def add_error_handlers(app: FastAPI) -> None:
    """Give every failure of `app` the one form."""

    async def validation(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        message, param = describe(error.errors())
        kinds = {str(item["type"]) for item in error.errors()}
        code = "unsupported_parameter" if kinds <= _UNSUPPORTED else "invalid_value"
        code = "invalid_json" if "json_invalid" in kinds else code
        return as_api_error(ApiError(400, message, code=code, param=param)).response()

    async def http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return as_api_error(_of_routing(request, error)).response()

    async def anything(_: Request, error: Exception) -> JSONResponse:
        return as_api_error(error).response()

    app.add_exception_handler(RequestValidationError, validation)
    app.add_exception_handler(HTTPException, http)
    # Any other one is answered by `Edge`.
    for kind in (ApiError, DataError, WaitTimeoutError, StoreUnavailableError):
        app.add_exception_handler(kind, anything)
