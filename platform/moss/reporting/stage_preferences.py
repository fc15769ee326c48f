"""Report of `label_preferences`: verdicts, the judge's biases, and who won against whom."""

from __future__ import annotations

from collections import Counter

from moss.dedup import count_words
from moss.evaluation.statistics import Estimate, wilson_interval
from moss.recipes import Row
from moss.reporting.blocks import Bar, BarChart, Section, ShareChart, Table
from moss.reporting.distributions import ROW_COLUMNS, Distribution
from moss.reporting.stage import percent
from moss.reporting.stage_conversations import share_table
from moss.synthesis_rows import Dataset

GAPS = ((0.1, "up to 10 % longer"), (0.5, "10 to 50 % longer"), (1.0, "50 to 100 % longer"))
FAR = "more than twice as long"
LABELS = {
    "a": "first response won",
    "b": "second response won",
    "tie": "tie",
    "skipped": "identical responses, skipped",
    "failed": "failed",
}
"""Label of a judged pair, else its status -> what stands in the table."""


class PreferencesTally:
    """Figures of one run of `label_preferences`."""

    def __init__(self) -> None:
        self._labels: Counter[str] = Counter()
        self._asked: Counter[str] = Counter()
        self._flipped: Counter[str] = Counter()
        self._seats: Counter[str] = Counter()
        self._longer_won: Counter[str] = Counter()
        self._decided_by_gap: Counter[str] = Counter()
        self._wins: Counter[tuple[str, str]] = Counter()
        self._ties: Counter[tuple[str, str]] = Counter()
        self._lengths: dict[str, Distribution] = {}
        self._splits: Counter[str] = Counter()

    def add(self, dataset: Dataset, row: Row, /) -> None:
        """Count one history's responses, or one judged pair."""
        if dataset == "responses":
            responses = row["responses"]
            assert isinstance(responses, list)
            for item in responses:
                length = count_words(str(item["text"]))
                self._lengths.setdefault(str(item["model"]), Distribution()).add(length)
            return
        self._labels[str(row["label"]) if row["status"] == "ok" else str(row["status"])] += 1
        self._splits[str(row["split"])] += 1
        if row["status"] == "ok":
            self._add_judged(row)

    def _add_judged(self, row: Row) -> None:
        language = str(row["language"])
        first, second = str(row["verdict_ab"]), str(row["verdict_ba"])
        self._asked[language] += 1
        self._flipped[language] += first == second != "tie"
        self._seats.update(verdict for verdict in (first, second) if verdict != "tie")
        models = (str(row["model_a"]), str(row["model_b"]))
        if row["label"] == "tie":
            self._ties[models] += 1
            self._ties[models[::-1]] += 1
            return
        winner = 0 if row["label"] == "a" else 1
        self._wins[models[winner], models[1 - winner]] += 1
        self._add_lengths(winner, [count_words(str(row[f"response_{seat}"])) for seat in "ab"])

    def _add_lengths(self, winner: int, lengths: list[int]) -> None:
        if lengths[0] == lengths[1]:
            return
        gap = max(lengths) / max(1, min(lengths)) - 1
        name = next((name for bound, name in GAPS if gap <= bound), FAR)
        for group in ("all", name):
            self._decided_by_gap[group] += 1
            self._longer_won[group] += lengths[winner] > lengths[1 - winner]

    def sections(self) -> list[Section]:
        """Labels, biases, models."""
        return [self._labels_section(), self._biases_section(), self._models_section()]

    def metrics(self) -> dict[str, float]:
        """The judge's flip rate, first-seat share and length bias; absent where nothing counts."""
        found = {"judge/pairs_asked": float(self._asked.total())}
        for name, estimate in self._biases():
            if estimate is not None:
                found[name] = estimate.value
        return found

    def _biases(self) -> list[tuple[str, Estimate | None]]:
        return [
            ("judge/flip_rate", _share(self._flipped.total(), self._asked.total())),
            ("judge/first_seat_share", _share(self._seats["A"], self._seats.total())),
            (
                "judge/longer_wins_share",
                _share(self._longer_won["all"], self._decided_by_gap["all"]),
            ),
        ]

    def _labels_section(self) -> Section:
        counts = Counter({LABELS[label]: n for label, n in self._labels.items()})
        total, asked = self._labels.total(), self._asked.total()
        text = (
            "Each pair is asked in both orders; two verdicts that differ after the swap are a tie. "
            f"Of {total:,} pairs {asked:,} were judged; {self._labels['skipped']:,} hold the same "
            "text twice and were skipped, not asked about and no ties below; "
            f"{self._labels['failed']:,} failed. Training uses the pairs that one response won."
        )
        tables = (share_table("label", counts), share_table("split", self._splits))
        return Section(title="Labels", text=text, blocks=tables)

    def _biases_section(self) -> Section:
        bars = [
            _bar(f"flipped, {language}: the same seat won both orders", self._flipped[language], n)
            for language, n in sorted(self._asked.items())
        ]
        bars.append(_bar("first seat won (0.5 is fair)", self._seats["A"], self._seats.total()))
        for group in ("all", *(name for _, name in GAPS), FAR):
            n = self._decided_by_gap[group]
            bars.append(_bar(f"longer response won, {group}", self._longer_won[group], n))
        return Section(
            title="The judge's biases",
            text="Lengths are in words, a Chinese character counting as one. That longer responses "
            "win is a bias only as far as they are not better.",
            blocks=(
                BarChart(
                    title="Position and length",
                    unit="share",
                    bars=tuple(bar for bar in bars if bar is not None),
                ),
            ),
        )

    def _models_section(self) -> Section:
        models = sorted({model for pair in (*self._wins, *self._ties) for model in pair})
        models.sort(key=lambda model: (-self._points(model), model))
        rows = tuple(
            (model, *(self._against(model, other) for other in models)) for model in models
        )
        shares = tuple((model, self._three_way(model)) for model in models)
        lengths = tuple(self._lengths[name].row(name) for name in sorted(self._lengths))
        return Section(
            title="Responses by model",
            blocks=(
                ShareChart(
                    title="Won, tied and lost, over the judged pairs of a model",
                    parts=("win", "tie", "lose"),
                    rows=shares,
                ),
                Table(
                    title="Share of decided pairs that the row's model won",
                    columns=("", *models),
                    rows=rows,
                ),
                Table(
                    title="Words of a response",
                    columns=("model", *ROW_COLUMNS),
                    rows=lengths,
                ),
            ),
        )

    def _points(self, model: str) -> float:
        win, _, lose = self._three_way(model)
        return win - lose

    def _three_way(self, model: str) -> tuple[float, float, float]:
        won = sum(n for (winner, _), n in self._wins.items() if winner == model)
        lost = sum(n for (_, loser), n in self._wins.items() if loser == model)
        tied = sum(n for (first, _), n in self._ties.items() if first == model)
        total = (won + tied + lost) or 1
        return won / total, tied / total, lost / total

    def _against(self, model: str, other: str) -> str:
        won, lost = self._wins[model, other], self._wins[other, model]
        return percent(won, won + lost) if model != other else ""


def _share(part: int, whole: int) -> Estimate | None:
    return wilson_interval(part, whole) if whole else None


def _bar(label: str, part: int, whole: int) -> Bar | None:
    estimate = _share(part, whole)
    if estimate is None:
        return None
    return Bar(
        label=f"{label} (n={whole:,})", value=estimate.value, low=estimate.low, high=estimate.high
    )
