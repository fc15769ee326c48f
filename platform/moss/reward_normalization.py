"""Bringing scores to a common scale: fixed, over a running mean and spread, or per batch.

The running moments follow all scores since the run began, each batch included before it is
normalized (Chan et al. 1983, updating formulas); they are part of every training state.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np

from moss.errors import DataError
from moss.rollouts import Floats

_SMALLEST_SPREAD = 1e-6
"""Below it scores do not differ beyond rounding, and are not blown up."""


class RewardNormalizer:
    """Mean and spread that the scores of each iteration are normalized with.

    Args:
        fixed_scale: what `none` divides by, the spread stored with the preference model or 1.
    """

    def __init__(self, kind: Literal["none", "running", "batch"], *, fixed_scale: float) -> None:
        self._kind, self._fixed_scale = kind, fixed_scale
        self._count = 0
        self._mean = self._squares = 0.0

    def moments(self, scores_B: Floats) -> tuple[float, float]:
        """Mean to take off this batch's scores, then spread to divide by; call it once per batch.

        Args:
            scores_B: all finite.
        """
        if self._kind == "none":
            return 0.0, self._fixed_scale
        count, mean, squares = _moments(scores_B)
        if self._kind == "running":
            count, mean, squares = self._merged(count, mean, squares)
        spread = math.sqrt(squares / count)
        return mean, spread if spread > _SMALLEST_SPREAD else 1.0

    def state(self) -> dict[str, float]:
        """What `load` continues from, as JSON holds it exactly."""
        return {"count": self._count, "mean": self._mean, "squares": self._squares}

    def load(self, state: Mapping[str, float]) -> None:
        """Continue exactly where `state` was taken.

        Raises:
            DataError: it is no such state.
        """
        try:
            self._count = int(state["count"])
            self._mean, self._squares = float(state["mean"]), float(state["squares"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{state!r} is no state of a reward normalizer; expected count, mean, squares"
            ) from error

    def _merged(self, count: int, mean: float, squares: float) -> tuple[int, float, float]:
        total = self._count + count
        step = mean - self._mean
        self._squares += squares + step * step * self._count * count / total
        self._mean += step * count / total
        self._count = total
        return self._count, self._mean, self._squares


def _moments(scores_B: Floats) -> tuple[int, float, float]:
    """Count, mean and sum of squared distances from it."""
    scores = scores_B.astype(np.float64)
    mean = float(scores.mean())
    return len(scores), mean, float(((scores - mean) ** 2).sum())
