"""The calls that make a conversation with tools, and those that make a negative example (8.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from moss.chat import Conversation, Turn, format_commands, format_results
from moss.config.synthesis import SynthesizeToolConversationsConfig
from moss.conversations import language_of, num_turns_of, parse_chat_reply, parse_user_message
from moss.errors import TeacherResponseError
from moss.meta_instruction import MetaInstruction
from moss.recipes import Calls, Row, Sampling, text_of
from moss.seeds import ToolDemonstration
from moss.structured import ask_parsed
from moss.templates import load_template
from moss.toolsynth import (
    Kind,
    Plan,
    RunsTools,
    check_citations,
    check_kind,
    check_plan,
    choose_switches,
    parse_plan,
    render_demonstrations,
    render_switches,
    render_tool_history,
)
from moss.types import TOOL_NAMES, TOOL_OF_API, Language, ToolName
from moss.usecases import parse_difficulty


@dataclass(frozen=True, slots=True)
class Planner:
    """Step 3: asks for inner thoughts and commands, few-shot."""

    model: str
    config: SynthesizeToolConversationsConfig
    demonstrations: Mapping[Language, Sequence[ToolDemonstration]]

    async def plan(
        self,
        row: Row,
        calls: Calls,
        *,
        query: str,
        history: Sequence[Turn],
        enabled: frozenset[ToolName],
        step: str,
    ) -> Plan:
        """A plan that parses and keeps to the switches.

        Raises:
            TeacherResponseError: the repaired answer holds none either.
        """
        language = language_of(row)
        template = load_template("tool_plan", language)
        prompt = template.render(
            demonstrations=render_demonstrations(self._shown(language)),
            switches=render_switches(enabled),
            history=render_tool_history(history),
            query=query,
        )

        def parse(text: str) -> Plan:
            plan = parse_plan(text)
            check_plan(plan, enabled)
            return plan

        return await ask_parsed(
            calls,
            self.model,
            prompt,
            Sampling(self.config.sampling),
            step=step,
            template=template,
            parse=parse,
        )

    def _shown(self, language: Language) -> list[ToolDemonstration]:
        """As many demonstrations of each tool as the config says."""
        shown: list[ToolDemonstration] = []
        for tool in TOOL_NAMES:
            of_tool = [item for item in self.demonstrations[language] if item.tool == tool]
            shown += of_tool[: self.config.num_demonstrations]
        return shown


@dataclass(frozen=True, slots=True)
class ToolConversation:
    """Recipe of steps 3 to 5. Reads `query`, `tool`, `kind`, `language`, `num_turns`."""

    planner: Planner
    tools: RunsTools
    difficulty_model: str
    step: str = "tool_conversation"

    async def run(self, row: Row, calls: Calls) -> Row:
        """Add `conversation`; filtered where the query is too easy."""
        config = self.planner.config
        if config.min_difficulty > 1:
            difficulty = await self._difficulty(row, calls)
            if difficulty < config.min_difficulty:
                reason = f"difficulty {difficulty} is below {config.min_difficulty}"
                return {"status": "filtered", "reason": reason}
        enabled = choose_switches(
            frozenset({cast(ToolName, text_of(row, "tool"))}),
            kind=cast(Kind, text_of(row, "kind")),
            probability=config.other_tool_probability,
            seed=config.seed,
            row_id=text_of(row, "id"),
        )
        turns: list[Turn] = []
        query = text_of(row, "query")
        for number in range(1, num_turns_of(row) + 1):
            if number > 1:
                query = await self._follow_up(row, turns, calls, number)
            turns.append(await self._turn(row, calls, query, turns, enabled, number))
        check_kind(row, turns)
        meta = MetaInstruction(config.meta_version, inner_thoughts=True, tools=enabled)
        conversation = Conversation(meta, tuple(turns))
        return {
            "conversation": conversation.to_json(),
            "num_turns": len(turns),
            "model": self.planner.model,
        }

    async def _turn(
        self,
        row: Row,
        calls: Calls,
        query: str,
        history: Sequence[Turn],
        enabled: frozenset[ToolName],
        number: int,
    ) -> Turn:
        plan = await self.planner.plan(
            row, calls, query=query, history=history, enabled=enabled, step=f"plan-{number}"
        )
        results = await self.tools.run(plan.commands) if plan.commands else ()
        template = load_template("tool_reply", language_of(row))
        prompt = template.render(
            history=render_tool_history(history),
            query=query,
            thoughts=plan.thoughts or "None",
            commands=format_commands(plan.commands),
            results=format_results(results),
        )
        answer = await calls.ask(
            self.planner.model,
            prompt,
            Sampling(self.planner.config.sampling),
            step=f"reply-{number}",
            template=template,
        )
        reply = parse_chat_reply(answer.text)
        check_citations(reply, results)
        return Turn(
            human=query,
            moss=reply,
            inner_thoughts=plan.thoughts,
            commands=plan.commands,
            results=results,
        )

    async def _follow_up(self, row: Row, turns: Sequence[Turn], calls: Calls, number: int) -> str:
        template = load_template("tool_follow_up", language_of(row))
        prompt = template.render(history=render_tool_history(turns))
        answer = await calls.ask(
            self.planner.model,
            prompt,
            Sampling(self.planner.config.sampling),
            step=f"follow-up-{number}",
            template=template,
        )
        message = parse_user_message(answer.text)
        if message is None:
            raise TeacherResponseError("the simulated user had no follow-up query")
        return message

    async def _difficulty(self, row: Row, calls: Calls) -> int:
        template = load_template("rate_difficulty", language_of(row))
        return await ask_parsed(
            calls,
            self.difficulty_model,
            template.render(prompt=text_of(row, "query")),
            Sampling(self.planner.config.sampling),
            step="difficulty",
            template=template,
            parse=parse_difficulty,
        )


@dataclass(frozen=True, slots=True)
class NegativeExample:
    """Recipe of a negative example. Reads `conversation` (conventional), `language`.

    The teacher plans the prompt of each turn with every tool on; the tools it would call are needed
    and stay off, some of the others are switched on. The text stays as it is.
    """

    planner: Planner
    step: str = "negative"

    async def run(self, row: Row, calls: Calls) -> Row:
        """Add the switched `conversation`; filtered where every tool is needed."""
        conversation = Conversation.from_json(text_of(row, "conversation"))
        needed: set[ToolName] = set()
        for number, turn in enumerate(conversation.turns, 1):
            plan = await self.planner.plan(
                row,
                calls,
                query=turn.human,
                history=conversation.turns[: number - 1],
                enabled=frozenset(TOOL_NAMES),
                step=f"needs-{number}",
            )
            needed |= {TOOL_OF_API[command.api] for command in plan.commands}
        if needed == set(TOOL_NAMES):
            return {"status": "filtered", "reason": "the conversation needs every tool"}
        config = self.planner.config
        enabled = choose_switches(
            frozenset(needed),
            kind="negative",
            probability=config.other_tool_probability,
            seed=config.seed,
            row_id=text_of(row, "id"),
        )
        meta = MetaInstruction(config.meta_version, inner_thoughts=True, tools=enabled)
        switched = Conversation(meta, conversation.turns)
        return {"conversation": switched.to_json(), "num_turns": len(switched.turns)}
