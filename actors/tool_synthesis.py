"""Tool conversations: queries, then plans, tool calls and replies; and negative examples."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from actors.session import TeacherSession
from actors.synthesis import extend, num_texts, written_prompts
from moss.chat import NONE, Command, ToolResult
from moss.config.synthesis import SynthesizeToolConversationsConfig
from moss.config.tools import ToolsConfig
from moss.recipes import Row
from moss.seeds import ToolDemonstration
from moss.selfinstruct import Coordinator, Example, ExtendPrompts
from moss.synthesis_plan import bucket_of, negative_rows, tool_buckets, tool_query_rows
from moss.synthesis_rows import Outcome, status_counts
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
    conversations: Sequence[Row],
) -> Outcome:
    """Tool seeds to five-section conversations (section 8.1).

    Args:
        demonstrations: by language; their queries are the seeds.
        conversations: conventional ones, from which negative examples are drawn.
    """
    seeds = _query_seeds(config, demonstrations)
    asked, queries = _extend_queries(config, session, seeds)
    planner = Planner(session.teacher.model("tools"), config, demonstrations)
    tools = DeployedTools(
        config.tools, concurrency=config.tool_concurrency, max_attempts=config.max_tool_attempts
    )
    to_converse = tool_query_rows(config, queries)
    positive = session.ask(
        to_converse, ToolConversation(planner, tools, session.teacher.model("difficulty"))
    )
    negative, notes = negative_rows(config, conversations, num_tool_rows=len(positive))
    switched = session.ask(negative, NegativeExample(planner))
    return Outcome(
        datasets={
            "queries": written_prompts(asked, queries),
            "tool_conversations": [*positive, *switched],
        },
        counts={
            "extend": status_counts(asked),
            "select": status_counts(queries),
            "tool_conversation": status_counts(positive),
            "negative": status_counts(switched),
        },
        rows_in={
            "extend": len(asked),
            "select": num_texts(asked),
            "tool_conversation": len(to_converse),
            "negative": len(negative),
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
) -> tuple[list[Row], list[Row]]:
    coordinator = Coordinator(
        tool_buckets(config),
        seeds,
        config=config.self_instruct,
        dedup=config.dedup,
        seed=config.seed,
    )
    recipe = ExtendPrompts(
        session.teacher.model("tools"), config.self_instruct, template="tool_queries"
    )
    return extend(coordinator, recipe, session)
