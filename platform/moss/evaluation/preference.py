"""Preference-model accuracy on judged pairs that it was not trained on (section 7.1)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moss.errors import DataError
from moss.evaluation.statistics import Estimate, bootstrap_interval, wilson_interval
from moss.preference_accuracy import JudgedPrompt


@dataclass(frozen=True, slots=True)
class PairAccuracy:
    """Agreement of the preference model with the judge on decided pairs."""

    overall: Estimate
    """Interval by bootstrap over prompts, whose pairs share responses and are not independent."""
    by_model_pair: dict[str, Estimate]
    """`a / b` in alphabetical order; Wilson intervals."""
    num_undecided: int
    """Validation pairs that are ties, equal or unreadable; in no share."""


def pair_accuracy(
    prompts: Sequence[JudgedPrompt],
    scores: Sequence[Sequence[float]],
    *,
    num_undecided: int,
    seed: int,
) -> PairAccuracy:
    """Share of decided pairs whose winner scores higher; equal scores count as wrong.

    Args:
        prompts: judged prompts that the model was not trained on.
        scores: for each prompt, the score of each of its responses.

    Raises:
        DataError: no pair at all.
    """
    by_prompt: list[list[bool]] = []
    by_models: dict[str, list[bool]] = defaultdict(list)
    for prompt, own in zip(prompts, scores, strict=True):
        rights = [own[winner] > own[loser] for winner, loser in prompt.pairs]
        if rights:
            by_prompt.append(rights)
        for (winner, loser), right in zip(prompt.pairs, rights, strict=True):
            names = " / ".join(sorted((prompt.models[winner], prompt.models[loser])))
            by_models[names].append(right)
    if not by_prompt:
        raise DataError("no decided pair to measure the preference model on; label more prompts")
    return PairAccuracy(
        overall=_clustered_share(by_prompt, seed=seed),
        by_model_pair={
            name: wilson_interval(sum(found), len(found))
            for name, found in sorted(by_models.items())
        },
        num_undecided=num_undecided,
    )


def _clustered_share(clusters: Sequence[Sequence[bool]], *, seed: int) -> Estimate:
    """Share of True over all clusters, interval by resampling whole clusters."""
    right = np.array([sum(cluster) for cluster in clusters], dtype=np.float64)
    sizes = np.array([len(cluster) for cluster in clusters], dtype=np.float64)

    def share(picks: np.ndarray) -> float:
        indices = picks.astype(np.int64)
        return float(right[indices].sum() / sizes[indices].sum())

    by_cluster = bootstrap_interval(
        [float(index) for index in range(len(clusters))], statistic=share, seed=seed
    )
    return Estimate(by_cluster.value, by_cluster.low, by_cluster.high, int(sizes.sum()))
