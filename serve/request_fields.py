"""What the request bodies of this API share: bounds, fields refused by name, fields ignored.

A field that would change the answer and that this service cannot honor is refused by name, unless
its value asks for nothing; so is a field that nobody knows. Lists are read up to their first fault,
and a few unknown fields are named: to describe a million of them costs seconds and half a gigabyte.
"""

from __future__ import annotations

from collections.abc import Sized
from typing import Annotated, ClassVar, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

_MAX_UNKNOWN: Final = 4
"""Unknown fields that are named."""
_MAX_STOPS: Final = 4


class Body(BaseModel):
    """An object of a request, whose unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")
    ignored: ClassVar[frozenset[str]] = frozenset()
    """Fields that clients send and that change nothing here."""

    @model_validator(mode="before")
    @classmethod
    def few_unknown_fields_are_left(cls, data: object) -> object:
        """Drop what is ignored, and of the unknown what need not be named."""
        if not isinstance(data, dict):
            return data
        unknown = [name for name in data if name not in cls.model_fields]
        named = [name for name in unknown if name not in cls.ignored][:_MAX_UNKNOWN]
        dropped = set(unknown) - set(named)
        return {name: value for name, value in data.items() if name not in dropped}


def refused(why: str, *nothing: object) -> BeforeValidator:
    """A field that is refused, but for values that ask for nothing."""

    def check(value: object) -> None:
        if value is not None and value not in nothing:
            raise PydanticCustomError("unsupported", "{why}", {"why": why})

    return BeforeValidator(check)


def expected(what: str) -> PydanticCustomError:
    """The error of a value of the wrong kind."""
    return PydanticCustomError("expected", "{what}", {"what": what})


def at_most(limit: int, what: str) -> BeforeValidator:
    """A bound that is checked before a collection's items are."""

    def check(value: object) -> object:
        if isinstance(value, Sized) and len(value) > limit:
            raise expected(f"at most {limit} {what}")
        return value

    return BeforeValidator(check)


def _as_stops(value: object) -> object:
    if value is None:
        return []
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or len(value) > _MAX_STOPS:
        raise expected(f"a text or a list of at most {_MAX_STOPS} texts")
    return value


class StreamOptions(Body):
    """What the stream holds beside the answer."""

    ignored = frozenset({"include_obfuscation"})

    include_usage: bool = False


class GenerationRequest(Body):
    """What chat and plain completions have in common."""

    ignored = frozenset(
        {"metadata", "prompt_cache_key", "safety_identifier", "service_tier", "store", "user"}
    )

    model: str = Field("", max_length=200)
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(None, gt=0, le=1, allow_inf_nan=False)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=100)], ...],
        Field(fail_fast=True),
        BeforeValidator(_as_stops),
    ] = ()
    """Texts before which the answer ends."""
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Annotated[None, refused("a request gets one answer", 1)] = None
    frequency_penalty: Annotated[None, refused("tokens are not penalized", 0)] = None
    presence_penalty: Annotated[None, refused("tokens are not penalized", 0)] = None
    logit_bias: Annotated[None, refused("tokens have no biases", {})] = None
