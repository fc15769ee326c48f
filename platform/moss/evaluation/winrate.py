"""Win, tie and lose of two models on the same prompts (section 7.2, Fig. 8)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from moss.chat import Conversation
from moss.evaluation.statistics import WinRate, win_rate
from moss.recipes import Row, stable_unit

Responses = Mapping[str, Mapping[str, str]]
"""Model name -> prompt id -> response."""


def comparison_rows(
    model: str,
    against: str,
    responses: Responses,
    histories: Mapping[str, Conversation],
    *,
    languages: Mapping[str, str],
) -> list[Row]:
    """Rows for `moss.judge.JudgePair`, one per prompt; seats are drawn by prompt."""
    rows: list[Row] = []
    for prompt_id, history in histories.items():
        row_id = f"{model}-vs-{against}-{prompt_id}"
        a, b = (model, against) if stable_unit("seat", row_id) < 0.5 else (against, model)
        rows.append(
            {
                "id": row_id,
                "prompt_id": prompt_id,
                "language": languages[prompt_id],
                "conversation": history.to_json(),
                "model_a": a,
                "model_b": b,
                "response_a": responses[a][prompt_id],
                "response_b": responses[b][prompt_id],
                "label": "",
                "split": "eval",
                "parents": [prompt_id],
            }
        )
    return rows


def count_wins(model: str, rows: Sequence[Row]) -> WinRate:
    """Wins, ties, losses and unreadable verdicts of `model` over judged rows."""
    counts: Counter[str] = Counter()
    for row in rows:
        label = row["label"] if row["label"] in ("a", "b", "tie") else "invalid"
        if label in ("a", "b"):
            winner = row["model_a"] if label == "a" else row["model_b"]
            label = "win" if winner == model else "lose"
        counts[str(label)] += 1
    return win_rate(counts["win"], counts["tie"], counts["lose"], counts["invalid"])


def count_score_wins(scores: Sequence[float], against: Sequence[float]) -> WinRate:
    """The same by preference score: the higher one wins, equal scores tie."""
    pairs = list(zip(scores, against, strict=True))
    wins = sum(mine > theirs for mine, theirs in pairs)
    losses = sum(mine < theirs for mine, theirs in pairs)
    return win_rate(wins, len(pairs) - wins - losses, losses)
