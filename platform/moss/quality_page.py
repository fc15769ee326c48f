"""The paper's Fig. 7 as a page: how many conversations got each quality tag, and where the bounds
between them lie in the distribution of scores."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

import numpy as np

from moss.quality import QualityBuckets
from moss.reporting.blocks import Histogram, Section, Series, Table
from moss.reporting.page import html_page, notes_html, section_html
from moss.types import QUALITY_LEVELS

QUALITY_PAGE: Final = "report.html"
_NUM_BINS: Final = 24


def render_quality_page(
    buckets: QualityBuckets, scores: Sequence[float], *, scored_by: str, model: str
) -> str:
    """The whole page.

    Args:
        scores: of the conversations that were tagged by their score.
        scored_by: name and version of the preference model.
        model: name of the model that is trained on the tags.
    """
    counts = buckets.histogram(scores)
    title = f"{model}: quality tags of {len(scores):,} conversations"
    section = Section(
        title="Tags (the paper's Fig. 7)",
        text=f"Bounds by rule {buckets.rule}; a score equal to a bound gets the higher tag.",
        blocks=(_tag_chart(counts), _tag_table(buckets, counts), _score_chart(scores)),
    )
    notes = notes_html([f"Scores are those of {scored_by}."])
    return html_page(title, f"<h1>{escape(title)}</h1>{notes}{section_html(section)}")


def _tag_chart(counts: dict[int, int]) -> Histogram:
    return Histogram(
        title="Conversations by quality tag",
        unit="quality tag",
        bins=tuple(str(level) for level in counts),
        series=(Series(name="conversations", counts=tuple(counts.values())),),
    )


def _tag_table(buckets: QualityBuckets, counts: dict[int, int]) -> Table:
    edges = ["", *(f"{bound:.3f}" for bound in buckets.bounds), ""]
    total = max(1, sum(counts.values()))
    rows = []
    for index, level in enumerate(QUALITY_LEVELS):
        count = counts[level]
        share = f"{100 * count / total:.1f} %"
        rows.append((str(level), edges[index], edges[index + 1], f"{count:,}", share))
    return Table(
        title="Bounds",
        columns=("tag", "from score", "below score", "conversations", "share"),
        rows=tuple(rows),
    )


def _score_chart(scores: Sequence[float]) -> Histogram:
    counts, edges = np.histogram(scores, bins=_NUM_BINS)
    return Histogram(
        title="Conversations by score",
        unit="preference score, lower edge of the bin",
        # Every fourth edge: there is no room for all.
        bins=tuple(f"{edge:.1f}" if i % 4 == 0 else "" for i, edge in enumerate(edges[:-1])),
        series=(Series(name="conversations", counts=tuple(int(count) for count in counts)),),
    )
