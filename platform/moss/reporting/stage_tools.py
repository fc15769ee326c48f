"""Report of `synthesize_tool_conversations`: quotas, kinds, calls and what the tools answered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from moss.chat import Conversation
from moss.config.synthesis import SynthesizeToolConversationsConfig
from moss.recipes import Row
from moss.reporting.blocks import Section, Table
from moss.reporting.paper_tables import TOOL_CONVERSATIONS
from moss.reporting.stage import QuotaTally, percent, share_comparison
from moss.reporting.stage_conversations import LengthTally, share_table
from moss.synthesis_plan import bucket_name, tool_buckets
from moss.synthesis_rows import Dataset

KINDS = ("positive", "disabled", "negative")


class ToolsTally:
    """Figures of one run of `synthesize_tool_conversations`."""

    def __init__(
        self, config: SynthesizeToolConversationsConfig, num_seeds: Mapping[str, int]
    ) -> None:
        self._config = config
        self._quotas = QuotaTally(tool_buckets(config), num_seeds)
        self._lengths = LengthTally(config.turns)
        self._kinds: Counter[tuple[str, str]] = Counter()
        self._num_easy = 0
        self._calls: Counter[str] = Counter()
        self._unanswered: Counter[str] = Counter()

    def add(self, dataset: Dataset, row: Row, /) -> None:
        """Count one query or one conversation."""
        status, language = str(row["status"]), str(row["language"])
        if dataset == "queries":
            if status != "ok":  # those that came through are counted by what became of them
                self._quotas.add(bucket_name(str(row["category"]), language), status)
            return
        if row["kind"] != "negative":
            self._quotas.add(bucket_name(str(row["tool"]), language), status)
            self._num_easy += status == "filtered"
        if status == "ok":
            self._add_conversation(row)

    def _add_conversation(self, row: Row) -> None:
        self._kinds[str(row["tool"]), str(row["kind"])] += 1
        if row["kind"] != "negative":  # its replies, and their tokens, are another run's
            self._lengths.add(row)
        for turn in Conversation.from_json(str(row["conversation"])).turns:
            for result in turn.results:
                self._calls[result.command.api] += 1
                self._unanswered[result.command.api] += not result.ok

    def sections(self) -> list[Section]:
        """Quotas, kinds, calls, lengths."""
        return [
            self._quotas.section(
                "Quotas",
                caption="Calls for queries that failed, queries that did not come through, and one "
                "conversation of each query that did; negative examples have no quota.",
            ),
            self._kinds_section(),
            self._calls_section(),
            self._lengths.section("Negative examples are left out: another run wrote them."),
        ]

    def metrics(self) -> dict[str, float]:
        """Shortfall, tool calls and those without a result, lengths."""
        return {
            "tools/short_of_quota": float(self._quotas.shortfall()),
            "tools/easy_queries": float(self._num_easy),
            "tools/calls": float(self._calls.total()),
            "tools/calls_without_result": float(self._unanswered.total()),
            **self._lengths.metrics(),
        }

    def _kinds_section(self) -> Section:
        tools = [*TOOL_CONVERSATIONS, *sorted({t for t, _ in self._kinds} - {*TOOL_CONVERSATIONS})]
        rows = tuple(
            (
                tool,
                *(f"{self._kinds[tool, kind]:,}" for kind in KINDS),
                f"{TOOL_CONVERSATIONS[tool]:,}" if tool in TOOL_CONVERSATIONS else "–",
            )
            for tool in tools
        )
        kinds: Counter[str] = Counter()
        by_tool: Counter[str] = Counter()
        for (tool, kind), count in self._kinds.items():
            kinds[kind] += count
            if kind != "negative":
                by_tool[tool] += count
        wanted = f"{100 * self._config.negative_share:.0f} % negative wanted"
        return Section(
            title="Conversations per tool (section 8.1)",
            text=f"Positive: the needed tool is on. Disabled: it is off. Negative: a conventional "
            f"conversation with tools switched on that it does not need ({wanted}).",
            blocks=(
                Table(title="", columns=("tool", *KINDS, "paper"), rows=rows),
                share_comparison(
                    "Share of conversations made for a tool",
                    by_tool,
                    {name: float(count) for name, count in TOOL_CONVERSATIONS.items()},
                ),
                share_table("kind", kinds),
            ),
        )

    def _calls_section(self) -> Section:
        rows = tuple(
            (api, f"{count:,}", f"{self._unanswered[api]:,}", percent(self._unanswered[api], count))
            for api, count in sorted(self._calls.items())
        )
        columns = ("API", "calls", "without a result", "share")
        caption = f"Queries rated below difficulty {self._config.min_difficulty} and filtered: "
        table = Table(title="", columns=columns, rows=rows, caption=f"{caption}{self._num_easy:,}.")
        return Section(title="Calls to the deployed tools", blocks=(table,))
