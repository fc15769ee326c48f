"""What is wrong with a request, in words: each field, what came, and what was expected."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final

_MAX_ERRORS: Final = 4
"""Told of one request."""
_MAX_VALUE_CHARS: Final = 40
_MAX_PART_CHARS: Final = 40
"""A part of a path can be a key of the client's own."""
_MAX_PARAM_CHARS: Final = 100
_MAX_MESSAGE_CHARS: Final = 600

_BOUNDS: Final = {
    "greater_than_equal": "at least {ge}",
    "greater_than": "more than {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "less than {lt}",
    "finite_number": "a finite number",
    "literal_error": "{expected}",
    "expected": "{what}",
    "string_too_long": "at most {max_length} characters",
    "string_too_short": "at least {min_length} characters",
    "string_pattern_mismatch": "text of the form {pattern}",
    "string_unicode": "text without lone surrogates",
    "too_long": "at most {max_length} items",
    "too_short": "at least {min_length} items",
}
"""What pydantic's kinds of errors, and our own, expected; in braces what they carry."""
_TYPES: Final = {
    "string": "text", "int": "a whole number", "float": "a number", "bool": "true or false",
    "list": "a list", "tuple": "a list", "dict": "an object", "model": "an object",
}  # fmt: skip
"""The same by the first word of a kind, such as `int_parsing`."""


def describe(errors: Sequence[Mapping[str, object]]) -> tuple[str, str | None]:
    """A message about every error, up to a few, and the path of the first field.

    Args:
        errors: those of pydantic; the first part of a place says where in the request it is.
    """
    told = [_sentence(error) for error in errors[:_MAX_ERRORS]]
    if more := len(errors) - len(told):
        told.append(f"and {more} more")
    message = _shortened("; ".join(told), _MAX_MESSAGE_CHARS)
    return message, _path(errors[0])[:_MAX_PARAM_CHARS] or None


def shown(value: object) -> str:
    """A value of a request, short."""
    match value:
        case str():
            text = json.dumps(_shortened(value, _MAX_VALUE_CHARS), ensure_ascii=False)
            is_cut = len(value) > _MAX_VALUE_CHARS
            return _encodable(text) + (f" ({len(value)} characters)" if is_cut else "")
        case list() | tuple():
            return f"a list of {len(value)}"
        case None | bool() | int() | float():
            return _shortened(json.dumps(value), _MAX_VALUE_CHARS)
    return "an object"


def _sentence(error: Mapping[str, object]) -> str:
    kind, carried, place = str(error["type"]), _carried(error), error["loc"]
    if kind == "json_invalid":
        assert isinstance(place, tuple)
        return f"the body is not JSON: {carried['error']} at character {place[-1]}"
    name, came = _path(error) or "the body", shown(error["input"])
    match kind:
        case "missing":
            return f"{name} is missing"
        case "extra_forbidden":
            return f"{name} is not a field that this service knows"
        case "unsupported":
            return f"{name} is not supported, but {came} came: {carried['why']}"
    if kind in _BOUNDS:
        wanted = _BOUNDS[kind].format(**carried)
    else:
        wanted = _TYPES.get(kind.partition("_")[0], str(error["msg"]))
    return f"{name}: expected {wanted}, but {came} came"


def _carried(error: Mapping[str, object]) -> Mapping[str, object]:
    carried = error.get("ctx", {})
    assert isinstance(carried, Mapping)
    return {
        name: f"{value:g}" if isinstance(value, float) else value for name, value in carried.items()
    }


def _path(error: Mapping[str, object]) -> str:
    """Such as `messages.0.role`; empty for the body as a whole, or a place in its text."""
    place = error["loc"]
    assert isinstance(place, tuple)
    if error["type"] == "json_invalid":
        return ""
    return _encodable(".".join(_shortened(str(part), _MAX_PART_CHARS) for part in place[1:]))


def _shortened(text: str, max_chars: int) -> str:
    return text if len(text) <= max_chars else f"{text[:max_chars]}…"


def _encodable(text: str) -> str:
    """Without lone surrogates, which no answer can hold."""
    return text.encode("utf-8", "replace").decode()
