"""Tool conversations: queries, then plans, tool calls and replies; and negative examples."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from actors.session import TeacherSession
from actors.synthesis import Extended, extend
from moss.chat import NONE, Command, ToolResult
from moss.config.synthesis import SynthesizeToolConversationsConfig
from moss.config.tools import ToolsConfig
from moss.manifest import STATUSES
from moss.recipes import Row
from moss.row_spool import RowSpool
from moss.seeds import ToolDemonstration
from moss.selfinstruct import Coordinator, Example, ExtendPrompts
from moss.synthesis_plan import (
    bucket_of,
    negative_rows,
    negatives_wanted,
    tool_buckets,
    tool_query_rows,
)
from moss.synthesis_rows import Counted, Outcome
from moss.tool_recipes import NegativeExample, Planner, ToolConversation
from moss.tools.base import Tool
from moss.tools.registry import build_tools, run_commands
from moss.types import Language, ToolName


class DeployedTools:
    """The service's own tools, built at the first call in the actor that uses them.

    Few turns run at once, so that no call spends its time limit in a queue.
    """

    def __init__(self, config: ToolsConfig, *, concurrency: int, max_attempts: int) -> None:
        self._config = config
        self._concurrency = concurrency
        self._max_attempts = max_attempts
        self._tools: dict[ToolName, Tool] | None = None
        self._slots: asyncio.Semaphore | None = None

    async def run(self, commands: Sequence[Command]) -> tuple[ToolResult, ...]:
        """Run the commands of one turn, again while one of them has no result."""
        if self._tools is None or self._slots is None:
            self._tools = build_tools(self._config)
            self._slots = asyncio.Semaphore(self._concurrency)
        results: tuple[ToolResult, ...] = ()
        async with self._slots:
            for _ in range(self._max_attempts):
                calls = await run_commands(self._tools, commands, max_calls=self._config.max_calls)
                results = tuple(call.result for call in calls)
                if all(result.ok for result in results):
                    break
        return results


def synthesize_tool_conversations(
    config: SynthesizeToolConversationsConfig,
    session: TeacherSession,
    *,
    demonstrations: Mapping[Language, Sequence[ToolDemonstration]],
    conversations: Iterable[Row],
) -> Outcome:
    """Tool seeds to five-section conversations (section 8.1).

    Args:
        demonstrations: by language; their queries are the seeds.
        conversations: conventional ones, from which negative examples are drawn, in ascending
            order of id; read twice.
    """
    seeds = _query_seeds(config, demonstrations)
    extended = _extend_queries(config, session, seeds)
    planner = Planner(session.teacher.model("tools"), config, demonstrations)
    tools = DeployedTools(
        config.tools, concurrency=config.tool_concurrency, max_attempts=config.max_tool_attempts
    )
    queries = Counted(tool_query_rows(config, extended.rows))
    recipe = ToolConversation(planner, tools, session.teacher.model("difficulty"))
    rows = RowSpool(session.stream(queries, [session.call_stage(recipe)]))
    positive = rows.counts()
    wanted = negatives_wanted(config, num_tool_rows=len(rows))
    negatives = Counted(negative_rows(config, conversations, wanted))
    switched: Counter[str] = Counter()
    for row in session.stream(negatives, [session.call_stage(NegativeExample(planner))]):
        switched[str(row["status"])] += 1
        rows.append(row)
    notes = []
    if negatives.num_rows < wanted:
        notes.append(f"{negatives.num_rows} conversations for {wanted} negative examples")
    return Outcome(
        datasets={"queries": extended.rows, "tool_conversations": rows},
        counts={
            **extended.counts(),
            "tool_conversation": positive,
            "negative": {status: switched[status] for status in STATUSES},
        },
        rows_in={
            **extended.rows_in(),
            "tool_conversation": queries.num_rows,
            "negative": negatives.num_rows,
        },
        num_seeds={bucket: len(examples) for bucket, examples in seeds.items()},
        usage=session.usage,
        notes=notes,
    )


def _query_seeds(
    config: SynthesizeToolConversationsConfig,
    demonstrations: Mapping[Language, Sequence[ToolDemonstration]],
) -> dict[str, list[Example]]:
    """Bucket -> queries of the demonstrations that call the bucket's tool."""
    return {
        bucket: [
            Example(item.id, item.query)
            for item in demonstrations[bucket_of(bucket)[1]]
            if item.tool == bucket_of(bucket)[0] and item.commands != NONE
        ]
        for bucket in tool_buckets(config)
    }


def _extend_queries(
    config: SynthesizeToolConversationsConfig,
    session: TeacherSession,
    seeds: Mapping[str, Sequence[Example]],
) -> Extended:
    coordinator = Coordinator(
        tool_buckets(config),
        seeds,
        config=config.self_instruct,
        dedup=config.dedup,
        seed=config.seed,
    )
    recipe = ExtendPrompts(
        session.teacher.model("tools"), config.self_instruct, config.dedup, "tool_queries"
    )
    return extend(coordinator, recipe, session)
