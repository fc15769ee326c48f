import pytest

from actors.labelling import judge_metrics
from moss.recipes import Row


def pair(label: str, ab: str, ba: str, *, a: str = "long answer", b: str = "short") -> Row:
    return {
        "status": "ok",
        "label": label,
        "verdict_ab": ab,
        "verdict_ba": ba,
        "response_a": a,
        "response_b": b,
    }


def test_judge_metrics_are_shares_of_the_pairs_that_were_asked_about() -> None:
    rows: list[Row] = [
        pair("a", "a", "b"),
        pair("b", "b", "a"),
        pair("a", "a", "b", a="same!", b="equal"),
        pair("tie", "a", "a"),
        pair("tie", "tie", "tie"),
        pair("invalid", "?", "a"),
        {"status": "skipped", "label": "tie"},
    ]
    metrics = judge_metrics(iter(rows))
    assert metrics == pytest.approx(
        {
            "judge/flipped_fraction": 1 / 6,
            "judge/tie_fraction": 2 / 6,
            "judge/invalid_fraction": 1 / 6,
            "judge/longer_wins_fraction": 1 / 2,
        }
    )
    assert judge_metrics([]) == {}
