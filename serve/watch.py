"""ASGI middleware around everything: each request gets an id, a log line and its metrics."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moss import live_metrics as series
from serve import meters
from serve.request_record import (
    OTHER_ROUTE,
    REQUEST_ID_HEADER,
    RequestRecord,
    begin,
    request_id,
)

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_LOG = logging.getLogger(__name__)


class Watch:
    """Outermost, so that no answer escapes it."""

    def __init__(self, app: ASGIApp, *, paths: Collection[str], proxy_adds_id: bool) -> None:
        """Nothing runs yet.

        Args:
            proxy_adds_id: Ray Serve's proxy stands in front: it gives every request an id that has
                none, and every answer the header with it.
            paths: routes without parameters. A request that is refused before it is routed is
                counted under its path if that is one of them, since a client cannot invent those.
        """
        self._app = app
        self._paths = frozenset(paths)
        self._proxy_adds_id = proxy_adds_id
        self._num_in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry point."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent_id = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
        record = RequestRecord(request_id(sent_id))
        begin(record)
        adds_id = not (self._proxy_adds_id and record.id == sent_id)

        async def send_noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                if adds_id:
                    MutableHeaders(scope=message)[REQUEST_ID_HEADER] = record.id
            await send(message)

        self._change_in_flight(1)
        try:
            await self._app(scope, receive, send_noted)
        finally:
            self._change_in_flight(-1)
            record.method = scope["method"] if scope["method"] in _METHODS else "other"
            record.route = self._route(scope)
            _measure(record)
            _LOG.info("request", extra={"fields": log_fields(record)})

    def _change_in_flight(self, by: int) -> None:
        self._num_in_flight += by
        meters.measure(series.IN_FLIGHT, self._num_in_flight)

    def _route(self, scope: Scope) -> str:
        if (route := scope.get("route")) is not None:  # the router leaves it
            return str(route.path)
        return scope["path"] if scope["path"] in self._paths else OTHER_ROUTE


def _measure(record: RequestRecord) -> None:
    model = record.model or "none"
    # A client that left before its answer began has no status; 499 is what proxies write.
    status = str(record.status or 499)
    meters.count(series.REQUESTS, route=record.route, status=status, model=model)
    meters.measure(series.REQUEST_TIME, record.seconds, route=record.route)
    meters.count(series.PROMPT_TOKENS, record.count.prompt, model=model)
    meters.count(series.GENERATED_TOKENS, record.count.completion, model=model)
    if record.first_token_s is not None:
        meters.measure(series.FIRST_TOKEN_TIME, record.first_token_s, model=model)
    for part, seconds in record.part_s.items():
        meters.measure(series.PART_TIME, seconds, part=part)
    for run in record.tool_runs:
        meters.count(series.TOOL_CALLS, tool=run.tool, outcome=run.outcome)
        if run.seconds is not None:
            meters.measure(series.TOOL_TIME, run.seconds, tool=run.tool)
    if record.status == 429:
        meters.count(series.REFUSED, reason=record.code or "other")
    if record.broken_by:
        meters.count(series.BROKEN_STREAMS, cause=record.broken_by)


def log_fields(record: RequestRecord) -> dict[str, object]:
    """A request's log line; what does not apply is left out."""
    counted: dict[str, object] = {}
    if record.count.total:
        counted = {
            "prompt_tokens": record.count.prompt, "completion_tokens": record.count.completion
        }  # fmt: skip
    fields = {
        "method": record.method, "route": record.route, "status": record.status,
        "model": record.model, "key": record.key, "code": record.code,
        "stream": record.is_stream, "broken_by": record.broken_by,
        "seconds": _rounded(record.seconds), "first_token_s": _rounded(record.first_token_s),
        **counted, **{f"{part}_s": _rounded(took) for part, took in record.part_s.items()},
        "tools": [
            {"tool": run.tool, "outcome": run.outcome, "seconds": _rounded(run.seconds)}
            for run in record.tool_runs
        ],
    }  # fmt: skip
    return {name: value for name, value in fields.items() if _says_something(value)}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)


def _says_something(value: object) -> bool:
    return value is not None and value is not False and value not in ("", [])
