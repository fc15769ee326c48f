"""How preference scores become quality tags."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from moss.config.base import Config


class QualityConfig(Config):
    """Rule that splits scores into six buckets, tagged 0, 20, 40, 60, 80, 100 (section 7.2)."""

    rule: Literal["equal_width", "quantile", "explicit"] = "equal_width"
    """`equal_width` between two percentiles of the scores, `quantile` = equal counts, `explicit` =
    the five bounds given here. The paper names none; its Fig. 7 excludes equal counts."""
    low_percentile: float = Field(1.0, ge=0, lt=100)
    high_percentile: float = Field(99.0, gt=0, le=100)
    """Ends of the equal-width range; scores outside fall into the first and last bucket."""
    bounds: tuple[float, ...] = ()
    """Five ascending inner bounds in score units; only for `explicit`."""

    @model_validator(mode="after")
    def percentiles_ascend(self) -> Self:
        """The range is not empty."""
        if self.low_percentile >= self.high_percentile:
            raise ValueError(
                f"low_percentile={self.low_percentile} is not below "
                f"high_percentile={self.high_percentile}"
            )
        return self

    @model_validator(mode="after")
    def explicit_rule_has_five_bounds(self) -> Self:
        """Bounds are given exactly when the rule reads them, and ascend."""
        if (self.rule == "explicit") != bool(self.bounds):
            raise ValueError(
                f"rule={self.rule!r} with bounds={self.bounds}; only 'explicit' has bounds"
            )
        ascending = all(a < b for a, b in zip(self.bounds, self.bounds[1:], strict=False))
        if self.bounds and (len(self.bounds) != 5 or not ascending):
            raise ValueError(f"bounds={self.bounds} are not five ascending numbers")
        return self
