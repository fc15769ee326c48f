"""Number of turns and purpose of a conversation: both depend on its id alone (section 5.2)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from moss.config.synthesis import SplitConfig, TurnsConfig
from moss.recipes import stable_unit

Split = Literal["sft", "preference", "eval"]
_MAX_REDRAWS = 10_000


@dataclass(frozen=True, slots=True)
class TurnCount:
    """One draw."""

    turns: int
    is_clipped: bool
    """The draw was outside the bounds and was moved to the nearest."""


def log_parameters(config: TurnsConfig) -> tuple[float, float]:
    """Mean and deviation of the logarithm of the turn count."""
    if config.params == "log":
        return config.mu, config.sigma
    variance = math.log(1 + (config.sigma / config.mu) ** 2)
    return math.log(config.mu) - variance / 2, math.sqrt(variance)


def sample_turns(config: TurnsConfig, *, seed: int, row_id: str) -> TurnCount:
    """Turns of one conversation, rounded to the nearest whole number.

    `overflow="redraw"` draws again while outside the bounds; "clip" moves to the nearest bound.
    """
    normal = NormalDist(*log_parameters(config))
    for draw in range(_MAX_REDRAWS):
        turns = round(math.exp(normal.inv_cdf(stable_unit(seed, "turns", row_id, draw))))
        if config.min_turns <= turns <= config.max_turns:
            return TurnCount(turns, is_clipped=False)
        if config.overflow == "clip":
            break
    bounded = min(max(turns, config.min_turns), config.max_turns)
    return TurnCount(bounded, is_clipped=True)


def turn_shares(config: TurnsConfig) -> dict[int, float]:
    """Turn count -> share of conversations that `sample_turns` gives it."""
    mu, sigma = log_parameters(config)
    normal = NormalDist(mu, sigma)

    def below(turns: float) -> float:
        return normal.cdf(math.log(turns)) if turns > 0 else 0.0

    counts = range(config.min_turns, config.max_turns + 1)
    shares = {count: below(count + 0.5) - below(count - 0.5) for count in counts}
    if config.overflow == "redraw":
        whole = math.fsum(shares.values())
        return {count: share / whole for count, share in shares.items()}
    shares[config.min_turns] += below(config.min_turns - 0.5)
    shares[config.max_turns] += 1 - below(config.max_turns + 0.5)
    return shares


def choose_split(config: SplitConfig, *, prompt_id: str) -> Split:
    """Purpose of a prompt; the same prompt has the same purpose in every run."""
    position = stable_unit("split", prompt_id)
    if position < config.preference:
        return "preference"
    return "eval" if position < config.preference + config.eval else "sft"


def choose_weighted(weights: Mapping[str, float], *, seed: int, row_id: str) -> str:
    """One of the names, drawn by weight."""
    position = stable_unit(seed, "choice", row_id) * math.fsum(weights.values())
    for name, weight in sorted(weights.items()):
        position -= weight
        if position < 0:
            return name
    return max(weights)
