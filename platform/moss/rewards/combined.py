"""The reward of a run: the weighted sum of its terms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from moss.config.rewards import (
    AnyReward,
    FunctionReward,
    HttpReward,
    PreferenceModelReward,
    RewardsConfig,
    ToolJudgeReward,
)
from moss.rewards.base import Reward, RewardBatch, RewardFailure, Scores


@dataclass(frozen=True, slots=True)
class RewardSources:
    """What terms are made from besides their configs."""

    preference_model: str
    """Checkpoint folder; read where a term asks for it."""
    device: str
    max_rows: int
    """Rows of one forward pass."""


class CombinedReward:
    """Scores a batch with every term; a row that fails in one of them fails."""

    def __init__(self, terms: Mapping[str, tuple[float, Reward]]) -> None:
        """Name to weight and reward."""
        self._terms = dict(terms)

    def score(self, batch: RewardBatch) -> Scores:
        """The weighted sum, in double precision until the end.

        Raises:
            RewardError: a term refuses every row.
        """
        total_B = np.zeros(batch.rollouts.num_rollouts)
        failures: dict[int, str] = {}
        parts = {}
        for name, (weight, reward) in self._terms.items():
            outcomes = reward.score(batch)
            for row, outcome in enumerate(outcomes):
                if isinstance(outcome, RewardFailure):
                    reason = (
                        outcome.reason if len(self._terms) == 1 else f"{name}: {outcome.reason}"
                    )
                    failures.setdefault(row, reason)
            part_B = np.array([np.nan if isinstance(o, RewardFailure) else o for o in outcomes])
            total_B += weight * part_B
            parts[name] = part_B.astype(np.float32)
        sums_B = total_B.astype(np.float32)
        for row in np.flatnonzero(~np.isfinite(sums_B)):
            failures.setdefault(int(row), f"the weighted sum is {total_B[row]}")
        return Scores(sums_B, failures, parts if len(self._terms) > 1 else {})

    def close(self) -> None:
        """Free what the terms hold."""
        for _, reward in self._terms.values():
            reward.close()


def check_functions(config: RewardsConfig) -> None:
    """Raise ConfigError unless every reward function imports and takes rows."""
    from moss.rewards.function import load_function

    for term in config.terms:
        if isinstance(term, FunctionReward):
            load_function(term.function)


def build_rewards(config: RewardsConfig, sources: RewardSources) -> CombinedReward:
    """Make every term.

    Raises:
        DataError: the folder of the preference model holds none.
        ConfigError: a function does not import, or a key is missing.
    """
    return CombinedReward(
        {name: (term.weight, _build(term, sources)) for name, term in config.by_name.items()}
    )


def _build(term: AnyReward, sources: RewardSources) -> Reward:
    """Heavy imports stand here: an actor loads what its terms need."""
    match term:
        case PreferenceModelReward():
            from moss.rewards.preference import PreferenceModelScorer

            return PreferenceModelScorer(
                sources.preference_model, device=sources.device, max_rows=sources.max_rows
            )
        case HttpReward():
            from moss.rewards.http import HttpScorer

            return HttpScorer(term)
        case FunctionReward():
            from moss.rewards.function import FunctionScorer

            return FunctionScorer(term.function)
        case ToolJudgeReward():
            from moss.rewards.tool_judge import ToolJudge

            return ToolJudge(term)
