"""Rows and batches for the tests of rewards."""

from __future__ import annotations

from collections.abc import Mapping

from moss.rewards.base import RewardRow


def row(
    number: int = 0, reply: str = "12+7 = 19.", columns: Mapping[str, str | None] | None = None
) -> RewardRow:
    return RewardRow(
        id=f"p{number}/{number}",
        prompt="<|Human|>: What is 12+7?<eoh>\n<|MOSS|>:",
        response=f" {reply}<eom>\n",
        reply=reply,
        finished=True,
        prompt_ids=[5, 6],
        response_ids=[7, 8],
        columns=columns or {},
    )
