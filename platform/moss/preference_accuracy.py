"""Judged responses as token sequences, and how often a preference model agrees with the judge."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from moss.errors import DataError
from moss.scoring import score_sequences

if TYPE_CHECKING:
    from moss.models import PreferenceModel


@dataclass(frozen=True, slots=True)
class JudgedPrompt:
    """One prompt, its responses rendered to ids, and the judge's verdicts."""

    prompt_id: str
    models: list[str]
    """Which model wrote each response."""
    sequences: list[list[int]]
    """Ids of the conversation with each response in its last turn."""
    pairs: list[tuple[int, int]]
    """(winner, loser) as indices; ties and invalid verdicts are not here."""


@dataclass(frozen=True, slots=True)
class AccuracyReport:
    """Agreement with the judge on pairs the model was not trained on."""

    accuracy: float
    """Share of pairs whose winner scores higher; an equal score counts half."""
    num_pairs: int
    by_model_pair: dict[str, tuple[float, int]]
    """`model a / model b` in alphabetical order: (share, pairs)."""
    score_mean: float
    score_std: float
    """Over the validation responses; PPO normalises rewards by them."""
    score_by_model: dict[str, float]
    """Mean score of each model's responses."""

    def to_json(self) -> dict[str, object]:
        """For `report.json`."""
        return asdict(self)


def save_judged(file: str | Path, prompts: Sequence[JudgedPrompt]) -> None:
    """Write one JSON line per prompt."""
    lines = [json.dumps(asdict(prompt), ensure_ascii=False) for prompt in prompts]
    Path(file).write_text("\n".join(lines) + "\n", encoding="utf-8")


def load_judged(file: str | Path) -> list[JudgedPrompt]:
    """Read what `save_judged` wrote."""
    prompts = []
    for line in Path(file).read_text(encoding="utf-8").splitlines():
        if line:
            row = json.loads(line)
            row["pairs"] = [(winner, loser) for winner, loser in row["pairs"]]
            prompts.append(JudgedPrompt(**row))
    return prompts


def measure_accuracy(
    model: PreferenceModel, prompts: Sequence[JudgedPrompt], *, token_budget: int
) -> AccuracyReport:
    """Score every response once and compare within each judged pair.

    Raises:
        DataError: there is no judged pair.
    """
    if not any(prompt.pairs for prompt in prompts):
        raise DataError("no judged pair to validate on; label more prompts or raise their share")
    sequences = [ids for prompt in prompts for ids in prompt.sequences]
    scores = score_sequences(model, sequences, token_budget=token_budget)
    outcomes: dict[str, list[float]] = defaultdict(list)
    by_model: dict[str, list[float]] = defaultdict(list)
    first = 0
    for prompt in prompts:
        own = scores[first : first + len(prompt.sequences)]
        first += len(prompt.sequences)
        for name, score in zip(prompt.models, own, strict=True):
            by_model[name].append(float(score))
        for winner, loser in prompt.pairs:
            names = " / ".join(sorted((prompt.models[winner], prompt.models[loser])))
            outcomes[names].append(float(np.heaviside(own[winner] - own[loser], 0.5)))
    every = [outcome for found in outcomes.values() for outcome in found]
    return AccuracyReport(
        accuracy=float(np.mean(every)),
        num_pairs=len(every),
        by_model_pair={
            names: (float(np.mean(found)), len(found)) for names, found in sorted(outcomes.items())
        },
        score_mean=float(scores.mean()),
        score_std=float(scores.std()) or 1.0,
        score_by_model={name: float(np.mean(found)) for name, found in sorted(by_model.items())},
    )
