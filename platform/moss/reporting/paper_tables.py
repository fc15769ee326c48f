"""The paper's figures that runs are held against (Tables 3 to 5, section 8.1)."""

from __future__ import annotations

from typing import Final

from moss.types import Language, ToolName

TABLE_3_SEEDS: Final[dict[str, dict[Language, int]]] = {
    "helpfulness": {"en": 70, "zh": 60},
    "honesty": {"en": 28, "zh": 30},
    "harmlessness": {"en": 0, "zh": 0},
}
TABLE_3_PROMPTS: Final[dict[str, dict[Language, int]]] = {
    "helpfulness": {"en": 419_049, "zh": 447_750},
    "honesty": {"en": 112_580, "zh": 142_885},
    "harmlessness": {"en": 38_873, "zh": 0},
}
"""Prompts per category and language; harmlessness is imported, not synthetic."""
TABLE_5: Final[dict[str, int]] = {
    "brainstorming": 99_163,
    "complex_instruction": 95_581,
    "code": 198_091,
    "role_playing": 246_375,
    "writing": 341_089,
    "honesty": 4_973,
    "harmlessness": 74_575,
}
"""Conversations per domain of the aligned set."""
TOOL_CONVERSATIONS: Final[dict[ToolName, int]] = {
    "web_search": 200_000,
    "calculator": 200_000,
    "equation_solver": 200_000,
    "text_to_image": 50_000,
}
"""Section 8.1."""
