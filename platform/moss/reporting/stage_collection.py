"""Report of `collect_prompts`: Table 4, frequency and difficulty, what the filters took."""

from __future__ import annotations

from collections import Counter

from moss.recipes import Row
from moss.reporting.blocks import Section, Table
from moss.reporting.distributions import (
    FREQUENCY_EDGES,
    Distribution,
    count_histogram,
    length_histogram,
)
from moss.reporting.stage import percent, share_comparison
from moss.reporting.stage_conversations import share_table
from moss.synthesis_rows import Dataset
from moss.usecases import UNKNOWN, USE_CASES


class CollectionTally:
    """Figures of one run of `collect_prompts`."""

    def __init__(self) -> None:
        self._use_cases: Counter[str] = Counter()
        self._seeds: Counter[str] = Counter()
        self._sources: Counter[str] = Counter()
        self._difficulty: dict[str, Distribution] = {}
        self._frequency: dict[str, Distribution] = {}

    def add(self, _dataset: Dataset, row: Row, /) -> None:
        """Count one served prompt."""
        self._sources[f"{row['source']} {row['language'] or 'language unknown'}"] += 1
        use_case = str(row["use_case"])
        if not use_case:
            return
        self._use_cases[use_case] += 1
        is_seed = row["status"] == "ok"
        self._seeds[use_case] += is_seed
        group = "seed" if is_seed else "not selected"
        for groups, name in ((self._difficulty, "difficulty"), (self._frequency, "frequency")):
            groups.setdefault(group, Distribution()).add(int(str(row[name])))

    def sections(self) -> list[Section]:
        """Table 4, the scores that seeds are selected by, the sources."""
        return [
            self._table_4(),
            Section(
                title="Frequency and difficulty",
                text="Seeds are selected by the product of both, inside each use case; frequency "
                "is counted before duplicates are removed.",
                blocks=(
                    count_histogram(
                        "Classified prompts by difficulty",
                        "difficulty",
                        self._difficulty,
                        values=range(1, 6),
                    ),
                    length_histogram(
                        "Classified prompts by frequency",
                        "served prompts that one stands for",
                        self._frequency,
                        edges=FREQUENCY_EDGES,
                    ),
                ),
            ),
            Section(title="Sources", blocks=(share_table("source and language", self._sources),)),
        ]

    def metrics(self) -> dict[str, float]:
        """Classified prompts, seeds, and the share of unknown use cases."""
        total = self._use_cases.total()
        return {
            "collection/classified": float(total),
            "collection/seeds": float(self._seeds.total()),
            "collection/unknown_share": self._use_cases[UNKNOWN] / total if total else 0.0,
        }

    def _table_4(self) -> Section:
        total, seeds = self._use_cases.total(), self._seeds.total()
        rows = tuple(
            (
                name,
                f"{self._use_cases[name]:,}",
                percent(self._use_cases[name], total),
                f"{self._seeds[name]:,}",
                percent(self._seeds[name], seeds),
                f"{USE_CASES[name]:.1f} %" if name in USE_CASES else "–",
            )
            for name in [*USE_CASES, *sorted(set(self._use_cases) - set(USE_CASES))]
        )
        columns = ("use case", "prompts", "share", "seeds", "share of seeds", "paper: share")
        return Section(
            title="Table 4: use cases",
            blocks=(
                Table(title="", columns=columns, rows=rows),
                share_comparison("Share of classified prompts", self._use_cases, USE_CASES),
            ),
        )
