"""Bounds on what PPO does to a policy, past which a run warns or stops."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from moss.config.base import Config


class Bound(Config):
    """Two limits on one quantity; null switches a limit off."""

    warn: float | None
    """Passing it is logged, and the policy of that iteration is not kept as the best."""
    stop: float | None
    """Passing it for `patience` iterations in a row ends the run."""
    patience: int = Field(2, ge=1)


class Ceiling(Bound):
    """A quantity that must not rise above its limits."""

    @model_validator(mode="after")
    def warning_comes_first(self) -> Self:
        """On the way up the lower limit is met first."""
        if self.warn is not None and self.stop is not None and self.warn > self.stop:
            raise ValueError(f"warn={self.warn} is above stop={self.stop}; a ceiling warns first")
        return self


class Floor(Bound):
    """A quantity that must not fall below its limits."""

    @model_validator(mode="after")
    def warning_comes_first(self) -> Self:
        """On the way down the higher limit is met first."""
        if self.warn is not None and self.stop is not None and self.warn < self.stop:
            raise ValueError(f"warn={self.warn} is below stop={self.stop}; a floor warns first")
        return self


class MonitorsConfig(Config):
    """What is watched in every PPO iteration.

    Each value is the mean over the last `window` iterations. All but the KL are compared with the
    mean of the first `start_iterations`: what counts is what training did to the policy, so a
    policy that was wordy or unfinished before it began trips nothing.
    """

    window: int = Field(1, ge=1)
    """Iterations whose mean is compared with the limits. More than 1 damps the noise of single
    batches, but a KL that runs away then passes its limit by more before the run ends."""
    start_iterations: int = Field(3, ge=1)
    """First iterations, which say what the policy was like before training moved it."""
    ngram_tokens: int = Field(4, ge=1)
    """Length of the token n-grams whose repetition within a response is counted."""
    kl_nats: Ceiling = Ceiling(warn=4.0, stop=5.0, patience=1)
    """KL from the reference, nats per response; for responses of a few dozen tokens. Longer ones
    drift further before their text suffers, so give them more."""
    length_growth: Ceiling = Ceiling(warn=2.5, stop=4.0)
    """Mean response length over that of the first iterations."""
    length_collapse: Floor = Floor(warn=0.5, stop=0.25)
    """The same quotient, from below."""
    repetition: Ceiling = Ceiling(warn=0.2, stop=0.4)
    """Share of repeated n-grams, less that of the first iterations."""
    unfinished: Ceiling = Ceiling(warn=0.3, stop=0.6, patience=3)
    """Share of responses cut at the length limit, less that of the first iterations."""
    entropy_collapse: Floor = Floor(warn=0.1, stop=None)
    """Entropy of the policy per token, over that of the first iterations."""
