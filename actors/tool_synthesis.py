"""Tool conversations: queries, then plans, tool calls and replies; and negative examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from actors.session import TeacherSession
from actors.synthesis import extend
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
    """The service's own tools, built at the first call in the actor that uses them."""

    def __init__(self, config: ToolsConfig) -> None:
        self._config = config
        self._tools: dict[ToolName, Tool] | None = None

    async def run(self, commands: Sequence[Command]) -> tuple[ToolResult, ...]:
        """Run the commands of one turn; see `moss.tools.registry.run_commands`."""
        if self._tools is None:
            self._tools = build_tools(self._config)
        finished = await run_commands(self._tools, commands, max_calls=self._config.max_calls)
        return tuple(call.result for call in finished)


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
    asked, queries = _extend_queries(config, session, demonstrations)
    planner = Planner(session.teacher.model("tools"), config, demonstrations)
    positive = session.ask(
        tool_query_rows(config, queries),
        ToolConversation(planner, DeployedTools(config.tools), session.teacher.model("difficulty")),
    )
    negative, notes = negative_rows(config, conversations, num_tool_rows=len(positive))
    switched = session.ask(negative, NegativeExample(planner))
    unused = [
        {**row, "tool": bucket_of(str(row["bucket"]))[0]}
        for row in [*queries, *(row for row in asked if row["status"] == "failed")]
        if row["status"] != "ok"
    ]
    return Outcome(
        datasets={"tool_conversations": [*positive, *switched, *unused]},
        counts={
            "extend": status_counts(asked),
            "select": status_counts(queries),
            "tool_conversation": status_counts(positive),
            "negative": status_counts(switched),
        },
        usage=session.usage,
        notes=notes,
    )


def _extend_queries(
    config: SynthesizeToolConversationsConfig,
    session: TeacherSession,
    demonstrations: Mapping[Language, Sequence[ToolDemonstration]],
) -> tuple[list[Row], list[Row]]:
    quotas = tool_buckets(config)
    seeds = {
        bucket: [
            Example(item.id, item.query)
            for item in demonstrations[bucket_of(bucket)[1]]
            if item.tool == bucket_of(bucket)[0] and item.commands != NONE
        ]
        for bucket in quotas
    }
    coordinator = Coordinator(
        quotas, seeds, config=config.self_instruct, dedup=config.dedup, seed=config.seed
    )
    model = session.teacher.model("tools")
    recipes = {
        bucket: ExtendPrompts(
            model, config.self_instruct, template="tool_queries", tool=bucket_of(bucket)[0]
        )
        for bucket in quotas
    }
    return extend(coordinator, recipes, session)
