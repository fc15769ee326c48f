"""What every report on several models says of them: wins, and the score by requested tag."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from moss.evaluation.quality_control import QualityControl
from moss.evaluation.report import ShareChart, Table, Target, decimal, percent
from moss.evaluation.statistics import Estimate, WinRate

Comparison = tuple[str, str]
"""(model, against)."""
WinRates = Mapping[Comparison, WinRate]

STAND_IN_NOTE = (
    "the judge and the training data come from the offline teacher, a rule-based stand-in for a "
    "language model; these numbers show that the road works, not how good a real MOSS is"
)


def counted(estimate: Estimate | None) -> str:
    """A share with its interval and number of cases."""
    return f"{percent(estimate)} (n={estimate.n})" if estimate else "no decided pair"


def win_targets(judged: WinRates, models: Sequence[str], *, against: str) -> list[Target]:
    """Each of `models` must beat `against`."""
    return [
        Target(
            name=f"{model} beats {against}",
            measured=f"won {counted(judged[model, against].decided)} of decided pairs",
            required="interval above 50 %",
            met=judged[model, against].beats,
        )
        for model in models
    ]


def win_table(judge: str, judged: WinRates, scored: WinRates, *, title: str, caption: str) -> Table:
    """Wins by the LLM judge and by the preference model."""
    rows = []
    for who, results in ((judge, judged), ("preference model", scored)):
        for (model, against), result in results.items():
            counts = (result.num_wins, result.num_ties, result.num_losses, result.num_invalid)
            rows.append((f"{model} vs {against}", who, *map(str, counts), percent(result.decided)))
    return Table(
        title=title,
        columns=("pair", "judge", "win", "tie", "lose", "unreadable", "won of decided"),
        rows=tuple(rows),
        caption=caption,
    )


def tag_table(quality: QualityControl, *, title: str) -> Table:
    """Mean score by requested quality tag."""
    return Table(
        title=title,
        columns=("tag", "n", "mean score"),
        rows=tuple(
            (str(level), str(mean.n), decimal(mean)) for level, mean in quality.by_level.items()
        ),
        caption=(
            f"Spearman {quality.spearman_of_means:.2f} over tags, "
            f"{quality.spearman_of_responses:.2f} over single responses. Bootstrap intervals."
        ),
    )


def win_chart(judge: str, judged: WinRates) -> ShareChart:
    """Wins, ties and losses as shares."""
    rows = []
    for (model, against), result in judged.items():
        counts = (result.num_wins, result.num_ties, result.num_losses)
        rows.append((f"{model} vs {against}", tuple(count / max(1, result.n) for count in counts)))
    return ShareChart(
        title=f"Win, tie, lose by {judge}", parts=("win", "tie", "lose"), rows=tuple(rows)
    )
