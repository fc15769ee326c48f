"""Categories of prompts: of the handwritten seeds (Table 3) and of what users ask for (Table 5)."""

from __future__ import annotations

from typing import Final

from moss.seeds import SEED_COUNTS

HARMLESSNESS: Final = "harmlessness"
"""Category of the imported red-team prompts (Table 3); it has no seeds."""

HONESTY: Final = "honesty"
"""Facts about the assistant itself: served prompts have no such use case, so the handwritten seeds
of this category serve the aligned set too."""

DOMAINS: Final[dict[str, str]] = {
    "Open QA": "complex_instruction",
    "Code": "code",
    "Chat": "role_playing",
    "Generation": "writing",
    "Math & Reasoning": "complex_instruction",
    "Brainstorming": "brainstorming",
    "Role-playing": "role_playing",
    "NLP Tasks": "complex_instruction",
}
"""Use case of Table 4 -> domain of Table 5."""

BUNDLED_CATEGORIES: Final = tuple(sorted({category for category, _ in SEED_COUNTS}))
"""Of the handwritten seeds."""

COLLECTED_CATEGORIES: Final = tuple(sorted({*DOMAINS.values(), HONESTY}))
"""Of the seeds that `collect_prompts` selects, and of those that are added to them."""
