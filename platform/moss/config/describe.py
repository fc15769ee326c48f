"""The keys of a config class as text, for `--help`."""

from __future__ import annotations

import re
import textwrap

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from moss.config.base import is_section, walk_keys

_WIDTH = 98
_ANNOTATED = re.compile(r"Annotated\[(.+?), FieldInfo\(.*?\)\]")
_NOISE = re.compile(r"<class '(?:\w+\.)*(\w+)'>|(?:\w+\.)+(?=\w)")


def describe_keys(config_class: type[BaseModel]) -> str:
    """Each key on a line, dotted, with type and default, and its meaning below it."""
    lines: list[str] = []
    for key, field in walk_keys(config_class):
        if is_section(field):
            continue
        default = "no default" if field.is_required() else f"= {_default(field)}"
        lines += textwrap.wrap(
            f"  {key}: {_type_name(field)} {default}", _WIDTH, subsequent_indent=" " * 8
        )
        meaning = " ".join((field.description or "").replace("`", "").split())
        lines += textwrap.wrap(meaning, _WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def _type_name(field: FieldInfo) -> str:
    plain = _ANNOTATED.sub(r"\1", str(field.annotation))
    return _NOISE.sub(lambda match: match[1] or "", plain)


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True, validated_data={})
    return "{}" if isinstance(value, dict) and not value else str(value)
