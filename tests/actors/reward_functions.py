"""Reward functions that the actors of a test import."""

from __future__ import annotations

from collections.abc import Sequence

from moss.rewards.base import RewardFailure, RewardRow


def even_tokens(rows: Sequence[RewardRow]) -> list[float | RewardFailure]:
    """Share of even tokens; the first row of each batch has no score."""
    scores = [sum(i % 2 == 0 for i in r.response_ids) / len(r.response_ids) for r in rows]
    return [RewardFailure("the first row is never scored"), *scores[1:]]
