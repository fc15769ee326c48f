"""Report of `synthesize_conversations`: turns and tokens (Fig. 4), domains, models, splits."""

from __future__ import annotations

from collections import Counter

from moss.chat import Conversation
from moss.config.synthesis import SynthesizeConversationsConfig, TurnsConfig
from moss.dedup import count_words
from moss.recipes import Row
from moss.reporting.blocks import Section, Table
from moss.reporting.distributions import (
    ROW_COLUMNS,
    Distribution,
    count_histogram,
    length_histogram,
)
from moss.reporting.paper_tables import TABLE_5
from moss.reporting.stage import percent
from moss.reporting.stage_prompts import table_5
from moss.spend import calls_of
from moss.synthesis_rows import Dataset
from moss.turns import turn_shares

REPLY_TEMPLATES = ("assistant_instruction.", "complete_conversation.", "tool_reply.")
"""Templates whose answers are the assistant's replies."""
WORDS = "words, a Chinese character counting as one"


class LengthTally:
    """Turns, tokens and words of conversations (Fig. 4), by language and by category."""

    def __init__(self, turns: TurnsConfig) -> None:
        self._config = turns
        self._turns: dict[str, Distribution] = {}
        self._tokens: dict[str, Distribution] = {}
        self._words: dict[str, Distribution] = {}
        self._by_category: dict[str, Distribution] = {}

    def add(self, row: Row) -> None:
        """Count one conversation that came through."""
        language, category = str(row["language"]), str(row["category"])
        conversation = Conversation.from_json(str(row["conversation"]))
        _of(self._turns, language).add(len(conversation.turns))
        _of(self._by_category, category).add(len(conversation.turns))
        for turn in conversation.turns:
            _of(self._words, language).add(count_words(turn.moss))
        for call in calls_of(row):
            if call.template.startswith(REPLY_TEMPLATES):
                _of(self._tokens, language).add(call.completion_tokens)

    def section(self, remark: str = "") -> Section:
        """Histograms and their figures; `remark` ends the text above them."""
        most = max((max(group.counts) for group in self._turns.values()), default=1)
        rows = [group.row(f"turns, {name}") for name, group in sorted(self._turns.items())]
        rows += [g.row(f"reply tokens, {name}") for name, g in sorted(self._tokens.items())]
        rows += [g.row(f"reply words, {name}") for name, g in sorted(self._words.items())]
        rows += [g.row(f"turns, {name}") for name, g in sorted(self._by_category.items())]
        columns = ("per conversation or reply", *ROW_COLUMNS)
        return Section(
            title="Figure 4: turns and lengths",
            text="The bars of the paper's figure are not in its text; the dashed marks show the "
            "turn counts that the configured sampler draws. A simulated user may end earlier. "
            + remark,
            blocks=(
                count_histogram(
                    "Conversations by number of turns",
                    "turns",
                    self._turns,
                    values=range(1, max(most, self._config.max_turns) + 1),
                    expected=turn_shares(self._config),
                    expected_name="drawn by the sampler",
                ),
                length_histogram(
                    "Replies by tokens",
                    "completion tokens of one reply, as the endpoint counts them",
                    self._tokens,
                ),
                length_histogram("Replies by words", WORDS, self._words),
                Table(title="", columns=columns, rows=tuple(rows)),
            ),
        )

    def metrics(self) -> dict[str, float]:
        """Mean turns and mean words of a reply."""
        turns, words = _merged(self._turns), _merged(self._words)
        return {
            "conversation/turns_mean": round(turns.mean, 6),
            "conversation/reply_words_mean": round(words.mean, 6),
        }


class ConversationsTally:
    """Figures of one run of `synthesize_conversations`."""

    def __init__(self, config: SynthesizeConversationsConfig) -> None:
        self._lengths = LengthTally(config.turns)
        self._buckets: Counter[tuple[str, str]] = Counter()
        self._models: Counter[str] = Counter()
        self._splits: Counter[str] = Counter()

    def add(self, _dataset: Dataset, row: Row, /) -> None:
        """Count one conversation; those that did not come through are accounted for elsewhere."""
        if row["status"] != "ok":
            return
        self._lengths.add(row)
        self._buckets[str(row["category"]), str(row["language"])] += 1
        self._models[str(row["grade_model"])] += 1
        self._splits[str(row["split"])] += 1

    def sections(self) -> list[Section]:
        """Fig. 4, the domains, and who answered for what."""
        aligned = any(category in TABLE_5 for category, _ in self._buckets)
        tables = (
            share_table("assistant's model", self._models),
            share_table("split", self._splits),
        )
        domains = table_5(self._buckets, what="conversations") if aligned else self._categories()
        return [
            self._lengths.section(),
            domains,
            Section(title="Models and splits", blocks=tables),
        ]

    def metrics(self) -> dict[str, float]:
        """See `LengthTally.metrics`."""
        return self._lengths.metrics()

    def _categories(self) -> Section:
        counts = Counter({f"{c} {lang}": n for (c, lang), n in self._buckets.items()})
        return Section(title="Categories", blocks=(share_table("category", counts),))


def share_table(name: str, counts: Counter[str]) -> Table:
    """Counts with their shares, the most frequent first."""
    rows = tuple(
        (label, f"{count:,}", percent(count, counts.total()))
        for label, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    )
    return Table(title="", columns=(name, "n", "share"), rows=rows)


def _of(groups: dict[str, Distribution], name: str) -> Distribution:
    return groups.setdefault(name, Distribution())


def _merged(groups: dict[str, Distribution]) -> Distribution:
    whole = Distribution()
    for group in groups.values():
        whole.counts.update(group.counts)
    return whole
