"""Scores to six levels."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moss.config.quality import QualityConfig
from moss.errors import DataError
from moss.quality import QualityBuckets
from moss.types import QUALITY_LEVELS

SCORES = [float(score) for score in range(101)]


@given(
    scores=st.lists(st.floats(-50, 50), min_size=12, max_size=60, unique=True),
    rule=st.sampled_from(["equal_width", "quantile"]),
)
def test_a_higher_score_never_gets_a_lower_level(scores: list[float], rule: str) -> None:
    try:
        buckets = QualityBuckets.fit(scores, QualityConfig(rule=rule))
    except DataError:
        return
    levels = [buckets.level(score) for score in sorted(scores)]
    assert levels == sorted(levels)


def test_equal_widths_between_the_percentiles() -> None:
    buckets = QualityBuckets.fit(SCORES, QualityConfig())
    width = (99 - 1) / 6
    assert buckets.bounds == pytest.approx([1 + width * k for k in range(1, 6)])


def test_quantiles_fill_buckets_equally() -> None:
    scores = SCORES[:60]
    buckets = QualityBuckets.fit(scores, QualityConfig(rule="quantile"))
    assert set(buckets.histogram(scores).values()) == {10}


def test_every_level_is_reached_and_outliers_fall_into_the_outer_ones() -> None:
    buckets = QualityBuckets.fit(SCORES, QualityConfig())
    assert set(map(buckets.level, SCORES)) == set(QUALITY_LEVELS)
    assert (buckets.level(-1e9), buckets.level(1e9)) == (0, 100)


def test_scores_all_alike_are_refused() -> None:
    with pytest.raises(DataError, match="do not separate six buckets"):
        QualityBuckets.fit([1.0] * 50, QualityConfig())


def test_bounds_survive_the_disk_with_tags_and_model(tmp_path: object) -> None:
    buckets = QualityBuckets.fit(SCORES, QualityConfig())
    path = f"{tmp_path}/quality.json"
    buckets.save(path, scores=SCORES, preference_model_digest="abc")
    assert QualityBuckets.load(path) == buckets
    from moss import storage

    saved = storage.read_json(path)
    assert isinstance(saved, dict)
    assert saved["tags"]["60"] == " <quality: 60>"
    assert saved["preference_model_digest"] == "abc"
    assert sum(saved["histogram"].values()) == len(SCORES)


def test_explicit_bounds_must_be_five_and_ascend() -> None:
    with pytest.raises(ValueError, match="not five ascending"):
        QualityConfig(rule="explicit", bounds=(1.0, 0.0, 2.0, 3.0, 4.0))
    with pytest.raises(ValueError, match="only 'explicit' has bounds"):
        QualityConfig(rule="quantile", bounds=(1.0, 2.0, 3.0, 4.0, 5.0))
