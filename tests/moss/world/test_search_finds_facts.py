from __future__ import annotations

import asyncio
import random

import pytest

from moss.config.tools import ToolsConfig
from moss.tools.base import Tool
from moss.tools.registry import build_tool
from moss.types import LANGUAGES, Language
from moss.world import compose_tool_reply, plan_tools, question_from
from moss.world.tables import facts


@pytest.mark.slow
def test_the_search_tool_finds_every_fact_and_the_reply_states_it() -> None:
    async def replies() -> list[tuple[str, str, str]]:
        tool = build_tool("web_search", ToolsConfig())
        rng = random.Random(0)
        found = []
        try:
            for fact in facts().values():
                for language in LANGUAGES:
                    found.append(await one(fact.id, fact.attribute, language, rng, tool))
        finally:
            await tool.close()
        return found

    async def one(
        fact_id: str, attribute: str, language: Language, rng: random.Random, tool: Tool
    ) -> tuple[str, str, str]:
        payload = {"fact": fact_id, "attribute": attribute}
        question = question_from("fact", payload, language, rng)
        _, (command,) = plan_tools(question, frozenset({"web_search"}), rng)
        output = await tool.call(command.argument)
        reply = compose_tool_reply(question, [output.body()], rng, language)
        return command.argument, facts()[fact_id].value[language], reply

    wrong = [item for item in asyncio.run(replies()) if f"{item[1]}<sup><|1|></sup>" not in item[2]]
    assert wrong == []
