from __future__ import annotations

import pytest

from moss.errors import ConfigError
from moss.persona import load_persona, parse_persona
from moss.types import LANGUAGES


def test_a_persona_block_reads_back_to_the_persona() -> None:
    for language in LANGUAGES:
        paper, neutral = (load_persona(name, language) for name in ("MOSS-paper", "MOSS"))
        assert paper != neutral
        assert parse_persona(f"before\n{paper.block()}\nafter", neutral) == paper
        assert parse_persona("no block here", neutral) == neutral


def test_an_unknown_persona_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="MOSS-paper"):
        load_persona("HAL", "en")
