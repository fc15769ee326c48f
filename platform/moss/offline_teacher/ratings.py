"""Use case and difficulty of a prompt (paper section 6)."""

from __future__ import annotations

import re
from typing import Final

from moss.world import Kind, recognize
from moss.world.toolplans import is_easy

_USE_CASES: Final[dict[Kind, str]] = {
    "arithmetic": "Math & Reasoning",
    "equation": "Math & Reasoning",
    "fact": "Open QA",
    "identity": "Chat",
    "writing": "Generation",
    "brainstorming": "Brainstorming",
    "chat": "Chat",
    "role_play": "Role-playing",
    "code": "Code",
    "harmful": "Chat",
    "image": "Generation",
    "sentiment": "NLP Tasks",
}
_DIFFICULTY: Final[dict[Kind, int]] = {
    "arithmetic": 3,
    "equation": 4,
    "fact": 3,
    "identity": 1,
    "writing": 3,
    "brainstorming": 2,
    "chat": 1,
    "role_play": 2,
    "code": 3,
    "harmful": 2,
    "image": 5,
    "sentiment": 2,
}
_NLP = re.compile(
    r"\b(?:translate|summarize|rewrite|classify)\b|翻译|总结|改写|归类", re.IGNORECASE
)


def classify(classes: str, prompt: str) -> str:
    """One of the listed classes; "unknown" where none of them fits."""
    listed = [name.strip() for name in re.split(r"[,，;\n]", classes) if name.strip()]
    question = recognize(prompt.strip())
    if question is not None:
        name = _USE_CASES[question.kind]
    elif _NLP.search(prompt):
        name = "NLP Tasks"
    else:
        name = "Open QA" if prompt.rstrip().endswith(("?", "？")) else "Chat"
    return name if name in listed else "unknown"


def rate_difficulty(prompt: str) -> int:
    """1 (anyone at once) to 5; longer calculations are harder."""
    question = recognize(prompt.strip())
    if question is None:
        return 2
    if is_easy(question):
        return 1
    rating = _DIFFICULTY[question.kind]
    if (
        question.kind == "arithmetic"
        and len(re.findall(r"\d+", question.payload["expression"])) > 2
    ):
        rating += 1
    return rating
