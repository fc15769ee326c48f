"""Whether the requested quality tag moves the quality of responses (section 7.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moss.errors import DataError
from moss.evaluation.statistics import Estimate, bootstrap_interval, spearman


@dataclass(frozen=True, slots=True)
class QualityControl:
    """Mean preference score by requested tag."""

    by_level: dict[int, Estimate]
    """Requested tag, ascending -> mean score of the responses, preference-model units."""
    spearman_of_means: float
    """Rank correlation of tag and mean score over the levels."""
    spearman_of_responses: float
    """The same over single responses; lower, for it holds the noise of each response."""


def quality_control(scores: Mapping[int, Sequence[float]], *, seed: int) -> QualityControl:
    """Means with bootstrap intervals, and rank correlations.

    Args:
        scores: requested tag -> scores of the responses to the same prompts in the same order.

    Raises:
        DataError: fewer than two levels.
    """
    if len(scores) < 2:
        raise DataError(f"quality control compares levels, got {sorted(scores)}")
    levels = sorted(scores)
    means = {level: bootstrap_interval(scores[level], seed=seed) for level in levels}
    return QualityControl(
        by_level=means,
        spearman_of_means=spearman(
            [float(level) for level in levels], [means[level].value for level in levels]
        ),
        spearman_of_responses=spearman(
            [float(level) for level in levels for _ in scores[level]],
            [score for level in levels for score in scores[level]],
        ),
    )
