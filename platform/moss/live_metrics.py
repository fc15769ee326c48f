"""Series that running processes give to Prometheus: the chat service, and who shares an endpoint.

Those of PPO are in `moss.metrics`. Every label takes few values, all of them ours: never a text, a
user, or a string that a client chose.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from moss.metrics import PROMETHEUS_METRICS, prometheus_name

RAY_PREFIX = "ray_"
"""What Ray sets before every name that it exports."""
_WAIT_BOUNDS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_CALL_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Series:
    """One metric with its labels."""

    name: str
    """`stage/quantity_unit`, as in `moss.metrics`."""
    kind: Literal["counter", "gauge", "histogram"]
    about: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    """Upper bounds of a histogram's buckets, in the metric's unit."""

    @property
    def exported(self) -> tuple[str, ...]:
        """The names under which Prometheus has it."""
        name = f"{RAY_PREFIX}{prometheus_name(self.name)}"
        match self.kind:
            case "counter":
                return (f"{name}_total",)
            case "histogram":
                return (f"{name}_bucket", f"{name}_sum", f"{name}_count")
        return (name,)


REQUESTS = Series(
    "service/requests_count", "counter", "Requests that have ended.", ("route", "status", "model")
)
IN_FLIGHT = Series("service/in_flight_count", "gauge", "Requests that are being answered.")
REQUEST_TIME = Series(
    "service/request_s", "histogram", "From a request's head to its end.", ("route",),
    _WAIT_BOUNDS_S,
)  # fmt: skip
FIRST_TOKEN_TIME = Series(
    "service/first_token_s", "histogram",
    "From a request's head to the first characters of its reply, tools included.", ("model",),
    _WAIT_BOUNDS_S,
)  # fmt: skip
PART_TIME = Series(
    "service/part_s", "histogram", "Parts of a finished turn: thoughts, commands, tools, reply.",
    ("part",), _WAIT_BOUNDS_S,
)  # fmt: skip
PROMPT_TOKENS = Series("service/prompt_tokens", "counter", "Tokens of prompts.", ("model",))
GENERATED_TOKENS = Series(
    "service/generated_tokens", "counter", "Tokens that were generated.", ("model",)
)
TOOL_CALLS = Series(
    "service/tool_calls_count", "counter",
    "Calls that a model wrote: ok, no_result, unavailable (the tool's fault), or dropped (its tool "
    "is off or unknown, or it was one too many).", ("tool", "outcome"),
)  # fmt: skip
TOOL_TIME = Series("service/tool_call_s", "histogram", "One tool call.", ("tool",), _CALL_BOUNDS_S)
REFUSED = Series("service/refused_count", "counter", "Answers of 429, by their code.", ("reason",))
BROKEN_STREAMS = Series(
    "service/broken_streams_count", "counter",
    "Streams that ended without [DONE]: failed, or client_left.", ("cause",),
)  # fmt: skip
ENGINE_STARTS = Series(
    "service/engine_starts_count", "counter", "Engines started: deployed, scaled up or replaced.",
    ("model",),
)  # fmt: skip
STORE_ERRORS = Series(
    "service/store_errors_count", "counter", "Times that the chat store did not answer."
)

ENDPOINT_ATTEMPTS = Series(
    "endpoint/attempts_count", "counter",
    "Requests to an LLM endpoint by how they ended: answered, overloaded, failed.", ("outcome",),
)  # fmt: skip
ENDPOINT_IN_FLIGHT = Series(
    "endpoint/in_flight_count", "gauge", "Requests to an endpoint that are under way."
)
ENDPOINT_WAITING = Series(
    "endpoint/waiting_count", "gauge", "Requests that wait for a slot of an endpoint."
)
ENDPOINT_SLOTS = Series(
    "endpoint/slots_count", "gauge", "Requests that an endpoint may have in flight, as adapted."
)

SERVICE_SERIES: tuple[Series, ...] = (
    REQUESTS, IN_FLIGHT, REQUEST_TIME, FIRST_TOKEN_TIME, PART_TIME, PROMPT_TOKENS,
    GENERATED_TOKENS, TOOL_CALLS, TOOL_TIME, REFUSED, BROKEN_STREAMS, ENGINE_STARTS, STORE_ERRORS,
)  # fmt: skip
"""Of the chat service; `serve.meters` exports them."""
ENDPOINT_SERIES: tuple[Series, ...] = (
    ENDPOINT_ATTEMPTS, ENDPOINT_IN_FLIGHT, ENDPOINT_WAITING, ENDPOINT_SLOTS
)  # fmt: skip
"""Of synthesis and labelling, which ask endpoints; `actors.limiter_metrics` exports them."""


def exported_names() -> frozenset[str]:
    """Every name that Prometheus can have from this code."""
    ppo = {f"{RAY_PREFIX}{prometheus_name(name)}" for name in PROMETHEUS_METRICS}
    live = {name for series in (*SERVICE_SERIES, *ENDPOINT_SERIES) for name in series.exported}
    return frozenset(ppo | live)
