"""Which quality of reply each model name stands for, and the draws that make answers repeatable."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from typing import Final

GRADES: Final[Mapping[str, Mapping[int, float]]] = {
    "text-ada-001": {0: 0.85, 1: 0.15},
    "text-babbage-001": {1: 0.85, 2: 0.15},
    "text-curie-001": {2: 0.85, 3: 0.15},
    "text-davinci-001": {3: 0.85, 4: 0.15},
    "text-davinci-002": {3: 0.15, 4: 0.75, 5: 0.10},
    "text-davinci-003": {3: 0.10, 4: 0.70, 5: 0.20},
    "gpt-3.5-turbo": {4: 0.15, 5: 0.85},
    "gpt-4": {5: 1.0},
}
"""Model name -> level of `moss.world.compose_reply` -> share of replies."""

MODELS: Final[tuple[str, ...]] = tuple(GRADES)


def seeded(*parts: object) -> random.Random:
    """A generator that depends on nothing but `parts`."""
    text = "\x1f".join(str(part) for part in parts)
    return random.Random(hashlib.blake2b(text.encode(), digest_size=8).digest())


def draw_level(model: str, rng: random.Random) -> int:
    """Quality level of one reply of a model."""
    shares = GRADES[model]
    return rng.choices(list(shares), weights=list(shares.values()))[0]
