"""Preference scores to six quality levels: 0, 20, 40, 60, 80, 100 (paper section 7.2).

The paper sorts scores into six buckets and tags them in ascending order; it does not say how wide
they are. Equal widths between the 1st and 99th percentile keep the shape of the distribution, which
is what its Fig. 7 shows; equal counts and explicit bounds are options (`QualityConfig`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from moss import storage
from moss.chat import quality_tag
from moss.chat_rendering import ChatRenderer
from moss.config.quality import QualityConfig
from moss.errors import DataError
from moss.types import QUALITY_LEVELS

TAGS_FILE = "quality_tags.json"
"""Of a checkpoint that was trained on tags."""


@dataclass(frozen=True, slots=True)
class QualityBuckets:
    """Five ascending bounds between six levels."""

    bounds: tuple[float, ...]
    """In score units; a score equal to a bound belongs to the bucket above it."""
    rule: str

    @classmethod
    def fit(cls, scores: Sequence[float], config: QualityConfig) -> QualityBuckets:
        """Bounds for a set of scores.

        Raises:
            DataError: no scores, one that is not finite, or all equal.
        """
        if config.rule == "explicit":
            return cls(config.bounds, config.rule)
        if not len(scores) or not all(math.isfinite(score) for score in scores):
            raise DataError(f"buckets need finite scores; got {len(scores)}, some not finite")
        if config.rule == "quantile":
            bounds = np.quantile(scores, np.arange(1, 6) / 6)
        else:
            ends = np.percentile(scores, [config.low_percentile, config.high_percentile])
            bounds = np.linspace(ends[0], ends[1], 7)[1:-1]
        if len(set(bounds.tolist())) < 5:
            raise DataError(
                f"the scores give bounds {bounds.tolist()}, which do not separate six buckets: the "
                "preference model scores (almost) everything alike; look at its accuracy"
            )
        return cls(tuple(float(bound) for bound in bounds), config.rule)

    def level(self, score: float) -> int:
        """Level of a score; higher scores never get a lower level."""
        return QUALITY_LEVELS[int(np.searchsorted(self.bounds, score, side="right"))]

    def histogram(self, scores: Sequence[float]) -> dict[int, int]:
        """Number of scores at each level (the paper's Fig. 7)."""
        counts = dict.fromkeys(QUALITY_LEVELS, 0)
        for score in scores:
            counts[self.level(score)] += 1
        return counts

    def save(self, path: str, *, scores: Sequence[float], preference_model_digest: str) -> None:
        """Write bounds, histogram, tags and the digest of the model that scored, as JSON."""
        storage.write_json(
            path,
            {
                "bounds": list(self.bounds),
                "rule": self.rule,
                "histogram": {str(k): v for k, v in self.histogram(scores).items()},
                "tags": {str(level): quality_tag(level) for level in QUALITY_LEVELS},
                "preference_model_digest": preference_model_digest,
            },
        )

    @classmethod
    def load(cls, path: str) -> QualityBuckets:
        """Read what `save` wrote."""
        data = cast(dict[str, object], storage.read_json(path))
        bounds = cast(list[float], data["bounds"])
        return cls(tuple(bounds), str(data["rule"]))


def pin_tags(checkpoint: str, renderer: ChatRenderer) -> None:
    """Write into a checkpoint which text and tokens each level's tag was trained as."""
    storage.write_json(storage.join(checkpoint, TAGS_FILE), _tags_of(renderer))


def check_tags(checkpoint: str, renderer: ChatRenderer) -> None:
    """Refuse a checkpoint whose tags were trained as other text or tokens than are rendered now.

    A checkpoint without pinned tags was not trained on any.

    Raises:
        DataError: names the first level that differs.
    """
    path = storage.join(checkpoint, TAGS_FILE)
    if not storage.exists(path):
        return
    pinned = storage.read_json(path)
    for level, tag in _tags_of(renderer).items():
        trained = pinned.get(level) if isinstance(pinned, dict) else None
        if trained != tag:
            raise DataError(
                f"{checkpoint} was trained with the quality tag {trained} for level {level}, but "
                f"{tag} would be sent; use the tokenizer and code that it was trained with"
            )


def _tags_of(renderer: ChatRenderer) -> dict[str, dict[str, object]]:
    return {
        str(level): {"text": quality_tag(level), "ids": renderer.tag_ids(level)}
        for level in QUALITY_LEVELS
    }
