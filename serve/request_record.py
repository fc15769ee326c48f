"""What is known of the request that is being answered: for its log line and for metrics.

The record travels in a context variable, so that every part of an answer (tools run concurrently,
streams begin late) finds its own. Nothing in it is a user's word.
"""

from __future__ import annotations

import re
import time
import uuid
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final

from serve.engines import TokenCount

REQUEST_ID_HEADER: Final = "x-request-id"
OTHER_ROUTE: Final = "other"
"""Stands for every path that is no route of ours."""
_WELL_FORMED_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class ToolRun:
    """One tool call of a turn."""

    tool: str
    """Name of the tool, `unknown` where the model wrote some other."""
    outcome: str
    """See `moss.live_metrics.TOOL_CALLS`."""
    seconds: float | None = None
    """None where it did not run."""


@dataclass(slots=True)
class RequestRecord:
    """One request, filled in while it is answered."""

    id: str
    method: str = ""
    route: str = OTHER_ROUTE
    status: int | None = None
    """None while no answer has begun."""
    key: str = ""
    """Label of the API key."""
    model: str = ""
    """Name of the model that answers, as it is served."""
    code: str = ""
    """Code of the error that ended it."""
    is_stream: bool = False
    is_complete: bool = False
    """Whether a stream got to its end."""
    count: TokenCount = field(default_factory=TokenCount)
    first_token_s: float | None = None
    part_s: dict[str, float] = field(default_factory=dict)
    """Seconds of each part of a finished turn."""
    tool_runs: list[ToolRun] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Since the request's head was read."""
        return time.monotonic() - self.started

    @property
    def broken_by(self) -> str:
        """What ended a stream before its end: `failed` or `client_left`; empty if nothing did."""
        if not self.is_stream or self.is_complete:
            return ""
        return "failed" if self.code else "client_left"

    def note_first_token(self) -> None:
        """The first characters of the reply are there; later calls change nothing."""
        if self.first_token_s is None:
            self.first_token_s = self.seconds


def request_id(sent: str) -> str:
    """The client's own id of a request if it is well formed, else a new one."""
    return sent if _WELL_FORMED_ID.fullmatch(sent) else uuid.uuid4().hex


_CURRENT: ContextVar[RequestRecord | None] = ContextVar("request_record", default=None)


def begin(record: RequestRecord) -> None:
    """Make `record` that of the current context, and of what starts in it."""
    _CURRENT.set(record)


def current_record() -> RequestRecord:
    """The record of the request being answered; outside of one, a record that nobody reads."""
    return _CURRENT.get() or RequestRecord("")


def current_id() -> str:
    """The id of the request being answered; empty outside of one."""
    record = _CURRENT.get()
    return record.id if record else ""
