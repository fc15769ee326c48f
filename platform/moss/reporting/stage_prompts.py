"""Report of `synthesize_prompts`: quotas, Table 3 or 5, length of prompts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from moss.categories import HARMLESSNESS
from moss.config.synthesis import SynthesizePromptsConfig
from moss.dedup import count_words
from moss.recipes import Row
from moss.reporting.blocks import Block, Section, Table
from moss.reporting.distributions import ROW_COLUMNS, Distribution, length_histogram
from moss.reporting.paper_tables import TABLE_3_PROMPTS, TABLE_3_SEEDS, TABLE_5
from moss.reporting.stage import QuotaTally, percent, share_comparison
from moss.synthesis_plan import bucket_name, quotas_of
from moss.synthesis_rows import Dataset
from moss.types import LANGUAGES


class PromptsTally:
    """Figures of one run of `synthesize_prompts`."""

    def __init__(self, config: SynthesizePromptsConfig, num_seeds: Mapping[str, int]) -> None:
        imported = {HARMLESSNESS: config.red_team} if any(config.red_team.values()) else {}
        self._num_seeds = num_seeds
        self._quotas = QuotaTally(quotas_of({**config.quotas, **imported}), num_seeds)
        self._accepted: Counter[tuple[str, str]] = Counter()
        self._lengths: dict[str, Distribution] = {}

    def add(self, _dataset: Dataset, row: Row, /) -> None:
        """Count one prompt, or one call that failed."""
        category, language, status = (str(row[n]) for n in ("category", "language", "status"))
        self._quotas.add(bucket_name(category, language), status)
        if status == "ok":
            self._accepted[category, language] += 1
            length = count_words(str(row["text"]))
            self._lengths.setdefault(language, Distribution()).add(length)

    def sections(self) -> list[Section]:
        """Quotas, the paper's table, lengths."""
        categories = {category for category, _ in self._accepted}
        warmup = categories <= set(TABLE_3_PROMPTS)
        title = "Length of the accepted prompts"
        unit = "words, a Chinese character counting as one"
        rows = tuple(lengths.row(name) for name, lengths in sorted(self._lengths.items()))
        return [
            self._quotas.section("Quotas"),
            table_3(self._num_seeds, self._accepted) if warmup else table_5(self._accepted),
            Section(
                title=title,
                blocks=(
                    length_histogram("Prompts by length", unit, self._lengths),
                    Table(title="", columns=("language", *ROW_COLUMNS), rows=rows, caption=unit),
                ),
            ),
        ]

    def metrics(self) -> dict[str, float]:
        """Accepted prompts and what is missing to the quotas."""
        return {
            "prompts/accepted": float(self._accepted.total()),
            "prompts/short_of_quota": float(self._quotas.shortfall()),
        }


def table_3(num_seeds: Mapping[str, int], accepted: Mapping[tuple[str, str], int]) -> Section:
    """Seeds and prompts per category and language beside Table 3."""
    rows: list[tuple[str, ...]] = []
    counts: dict[str, int] = {}
    reference: dict[str, float] = {}
    for category, paper in TABLE_3_PROMPTS.items():
        for language in LANGUAGES:
            bucket = bucket_name(category, language)
            counts[bucket] = accepted.get((category, language), 0)
            reference[bucket] = paper[language]
            rows.append(
                (
                    f"{category} {language}",
                    f"{num_seeds.get(bucket, 0):,}",
                    f"{counts[bucket]:,}",
                    f"{TABLE_3_SEEDS[category][language]:,}",
                    f"{paper[language]:,}",
                )
            )
    columns = ("category", "seeds", "prompts", "paper: seeds", "paper: prompts")
    caption = "Harmlessness is imported red-team prompts, never shown to the prompt generator."
    blocks: tuple[Block, ...] = (
        Table(title="", columns=columns, rows=tuple(rows), caption=caption),
        share_comparison("Share of all prompts", counts, reference),
    )
    return Section(title="Table 3: seed and synthetic prompts", blocks=blocks)


def table_5(accepted: Mapping[tuple[str, str], int], *, what: str = "prompts") -> Section:
    """Rows per domain beside Table 5."""
    counts: Counter[str] = Counter()
    for (category, _), count in accepted.items():
        counts[category] += count
    total, whole = counts.total(), sum(TABLE_5.values())
    rows = tuple(
        (
            name,
            *(f"{accepted.get((name, language), 0):,}" for language in LANGUAGES),
            f"{counts[name]:,}",
            percent(counts[name], total),
            f"{TABLE_5[name]:,}" if name in TABLE_5 else "–",
            percent(TABLE_5[name], whole) if name in TABLE_5 else "–",
        )
        for name in [*TABLE_5, *sorted(set(counts) - set(TABLE_5))]
    )
    columns = ("domain", *LANGUAGES, what, "share", f"paper: {what}", "paper: share")
    return Section(
        title="Table 5: distribution over domains",
        blocks=(
            Table(title="", columns=columns, rows=rows),
            share_comparison(f"Share of all {what}", counts, TABLE_5),
        ),
    )
