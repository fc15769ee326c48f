"""Answers of the tool synthesis steps: plan, final reply, follow-up (paper section 8.1)."""

from __future__ import annotations

import random
import re

from moss.chat import format_commands, parse_results
from moss.errors import ChatFormatError
from moss.offline_teacher.dialogue import last_human
from moss.types import API_NAMES, TOOL_NAMES, Language, ToolName
from moss.world import compose_reply, compose_tool_reply, plan_tools, recognize, sample_follow_up
from moss.world.replies import LEVELS
from moss.world.sampling import sample_question
from moss.world.tables import lines
from moss.world.toolplans import needed_tool

_SWITCH = re.compile(r"^\W*([\w -]+?)[ \t]*[:：][ \t]*enabled", re.MULTILINE | re.IGNORECASE)
_GOOD_LEVEL = LEVELS[4]


def write_plan(switches: str, query: str, language: Language, rng: random.Random) -> str:
    """Inner thoughts and commands that keep to the switches."""
    question = recognize(query.strip())
    if question is None:
        return f"Inner thoughts: {rng.choice(lines(language, 'tools', 'none'))}\nCommands: None"
    thought, commands = plan_tools(question, _enabled(switches), rng)
    return f"Inner thoughts: {thought}\nCommands: {format_commands(commands)}"


def write_reply(query: str, results: str, language: Language, rng: random.Random) -> str:
    """The final reply; it copies what the tools found, or answers directly without calls."""
    question = recognize(query.strip())
    bodies = _bodies(results)
    if bodies:
        return compose_tool_reply(question, bodies, rng, language)
    if question is None:
        return lines(language, "common", "unknown")[0]
    return compose_reply(question, _GOOD_LEVEL, rng)


def write_follow_up(history: str, language: Language, rng: random.Random) -> str:
    """The user's next query, again one that a tool helps with where the last one was."""
    question = recognize(last_human(history))
    if question is None:
        return sample_question(rng, "fact", language).text
    while True:
        follow_up = sample_follow_up(rng, question)
        if needed_tool(question) is None or needed_tool(follow_up) is not None:
            return follow_up.text


def _enabled(switches: str) -> frozenset[ToolName]:
    named = {name.strip().casefold().replace("-", " ") for name in _SWITCH.findall(switches)}
    return frozenset(
        tool
        for tool in TOOL_NAMES
        if named & {tool, tool.replace("_", " "), API_NAMES[tool].casefold()}
    )


def _bodies(results: str) -> list[str]:
    """Result bodies in the order of their commands; none where nothing was called."""
    try:
        return [result.text for result in parse_results(results.strip())]
    except ChatFormatError:
        return []
