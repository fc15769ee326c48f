"""Statistics of the evaluation tables, each with its sample size and a 95 % interval.

Nothing here draws from global random state: the bootstrap takes a seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from moss.errors import DataError

Z_95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its sample size and 95 % interval."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}] (n={self.n})"


def wilson_interval(num_successes: int, n: int, *, z: float = Z_95) -> Estimate:
    """Share of successes with its Wilson score interval (Wilson 1927).

    Unlike the normal approximation it stays inside [0, 1] and is not empty at 0 or n successes.

    Raises:
        DataError: no sample, or more successes than samples.
    """
    if n <= 0 or not 0 <= num_successes <= n:
        raise DataError(f"a share needs 0 <= successes <= n and n > 0, got {num_successes} of {n}")
    share = num_successes / n
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    center = share + z * z / (2 * n)
    scale = 1 + z * z / n
    low = max(0.0, (center - spread) / scale)
    high = min(1.0, (center + spread) / scale)
    return Estimate(value=share, low=min(low, share), high=max(high, share), n=n)


def bootstrap_interval(
    samples: Sequence[float],
    *,
    statistic: Callable[[np.ndarray], float] | None = None,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Percentile bootstrap interval of a statistic of `samples` (default: the mean).

    Raises:
        DataError: no sample, or one that is not finite.
    """
    values = np.asarray(samples, dtype=np.float64)
    if values.size == 0 or not np.isfinite(values).all():
        raise DataError(f"a bootstrap needs finite samples, got {values.size} with NaN or infinity")
    measure = statistic or (lambda sample: float(sample.mean()))
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, values.size, size=(num_resamples, values.size))
    resampled = np.array([measure(values[pick]) for pick in picks])
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Estimate(measure(values), float(low), float(high), int(values.size))


def average_ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 1; equal values share the mean of their ranks."""
    order = sorted(range(len(values)), key=lambda index: values[index])
    ranks = [0.0] * len(values)
    start = 0
    while start < len(order):
        stop = start
        while stop < len(order) and values[order[stop]] == values[order[start]]:
            stop += 1
        for position in range(start, stop):
            ranks[order[position]] = (start + stop + 1) / 2
        start = stop
    return ranks


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's rank correlation, ties with average ranks; 0 where one side is constant.

    Raises:
        DataError: lengths differ or fewer than two points.
    """
    if len(x) != len(y) or len(x) < 2:
        raise DataError(f"a rank correlation needs two equal lengths >= 2, got {len(x)}, {len(y)}")
    ranks_x, ranks_y = np.array(average_ranks(x)), np.array(average_ranks(y))
    ranks_x -= ranks_x.mean()
    ranks_y -= ranks_y.mean()
    scale = math.sqrt(float(ranks_x @ ranks_x) * float(ranks_y @ ranks_y))
    return float(ranks_x @ ranks_y) / scale if scale else 0.0


def mcnemar_exact(num_only_first: int, num_only_second: int) -> float:
    """Two-sided exact p-value that two paired shares are equal (McNemar 1947, binomial form).

    Args:
        num_only_first: pairs that only the first arm got right.
        num_only_second: pairs that only the second arm got right.
    """
    n = num_only_first + num_only_second
    tail = sum(math.comb(n, k) for k in range(min(num_only_first, num_only_second) + 1))
    return min(1.0, 2 * tail / float(1 << n))


@dataclass(frozen=True, slots=True)
class WinRate:
    """Wins, ties and losses of one model against another, with the share of decided wins."""

    num_wins: int
    num_ties: int
    num_losses: int
    num_invalid: int
    """Pairs that the judge answered with no verdict; counted, in no share."""
    decided: Estimate | None
    """Wins over wins plus losses, Wilson interval; None if every pair tied."""

    @property
    def n(self) -> int:
        """Judged pairs with a verdict."""
        return self.num_wins + self.num_ties + self.num_losses

    @property
    def beats(self) -> bool:
        """True if wins outnumber losses and the interval does not touch one half."""
        return self.decided is not None and self.decided.low > 0.5


def win_rate(num_wins: int, num_ties: int, num_losses: int, num_invalid: int = 0) -> WinRate:
    """Three-way result whose decided share leaves the ties out (they favor neither side)."""
    num_decided = num_wins + num_losses
    decided = wilson_interval(num_wins, num_decided) if num_decided else None
    return WinRate(num_wins, num_ties, num_losses, num_invalid, decided)
