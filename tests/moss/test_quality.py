"""Scores to six levels."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moss.chat import Conversation, Turn
from moss.chat_rendering import ChatRenderer
from moss.config.quality import QualityConfig
from moss.errors import DataError
from moss.meta_instruction import MetaInstruction
from moss.quality import QualityBuckets, check_tags, pin_tags
from moss.quality_page import render_quality_page
from moss.tokenizer import MossTokenizer
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


def test_a_checkpoint_whose_tags_were_trained_otherwise_is_refused(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    renderer = ChatRenderer(MossTokenizer.load(tiny_checkpoint))
    check_tags(str(tmp_path), renderer)  # nothing is pinned, so no tag was trained
    pin_tags(str(tmp_path), renderer)
    check_tags(str(tmp_path), renderer)
    pinned = json.loads((tmp_path / "quality_tags.json").read_text())
    assert pinned["60"]["text"] == " <quality: 60>"
    for level in QUALITY_LEVELS:
        history = Conversation(MetaInstruction("tiny"), (Turn("Hi", ""),))
        tagged = renderer.prompt_ids(history, "moss", level)
        assert tagged == renderer.prompt_ids(history, "moss") + pinned[str(level)]["ids"]
    pinned["60"]["ids"][-1] += 1
    (tmp_path / "quality_tags.json").write_text(json.dumps(pinned))
    with pytest.raises(DataError, match="level 60"):
        check_tags(str(tmp_path), renderer)


def test_the_page_counts_every_conversation_once_and_states_the_scorer() -> None:
    buckets = QualityBuckets.fit(SCORES, QualityConfig())
    page = render_quality_page(buckets, SCORES, scored_by="PM (version abc)", model="MOSS-PAT")
    rows = re.findall(r"<tr><td>(\d+)</td><td>([^<]*)</td><td>([^<]*)</td><td>(\d+)</td>", page)
    assert [int(level) for level, *_ in rows] == list(QUALITY_LEVELS)
    assert sum(int(count) for *_, count in rows) == len(SCORES)
    bounds = [float(low) for _, low, _, _ in rows[1:]]
    assert bounds == pytest.approx(buckets.bounds, abs=1e-3)
    assert "PM (version abc)" in page
    assert not re.search(r"https?:|src=|href=", page)
