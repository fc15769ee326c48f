"""What a question of the closed domain is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from moss.types import Language

Kind = Literal[
    "arithmetic",
    "equation",
    "fact",
    "identity",
    "writing",
    "brainstorming",
    "chat",
    "role_play",
    "code",
    "harmful",
    "image",
    "sentiment",
]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt of the domain, understood."""

    text: str
    """As the user wrote it."""
    kind: Kind
    language: Language
    answer: str
    """What a right reply says, in the question's language; empty where the domain has none."""
    payload: Mapping[str, str] = field(hash=False)
    """What the question is about, in keys that no language changes: expression, table rows, ids."""
