"""Which tools exist, how they are built, and how the commands of one turn are run.

A fifth tool is one module with a `build(ToolsConfig) -> Tool`, its lines in `TOOL_MODULES` and
`LAYOUTS`, and what docs/architecture.md lists beside them.
"""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import Mapping, Sequence
from typing import Final, cast

from moss.chat import Command, ToolResult
from moss.config.tools import ToolsConfig
from moss.tools.base import FinishedCall, Layout, Tool, ToolOutput
from moss.types import TOOL_OF_API, ToolName

TOOL_MODULES: Final[dict[ToolName, str]] = {
    "web_search": "moss.tools.search",
    "calculator": "moss.tools.calculator",
    "equation_solver": "moss.tools.solver",
    "text_to_image": "moss.tools.text_to_image",
}
"""Module of each tool; it is imported only where the tool is enabled."""

LAYOUTS: Final[dict[ToolName, Layout]] = {
    "web_search": "references",
    "calculator": "quoted",
    "equation_solver": "plain",
    "text_to_image": "plain",
}


def build_tool(name: ToolName, config: ToolsConfig) -> Tool:
    """Build one tool.

    Raises:
        ResourceError: the sandbox it needs is missing on this machine.
        ConfigError: its section names something that does not exist.
    """
    return cast(Tool, importlib.import_module(TOOL_MODULES[name]).build(config))


def build_tools(config: ToolsConfig) -> dict[ToolName, Tool]:
    """Build every enabled tool; heavy libraries load at a tool's first call. See `build_tool`."""
    return {name: build_tool(name, config) for name in config.enabled}


async def close_tools(tools: Mapping[ToolName, Tool]) -> None:
    """Close every tool."""
    await asyncio.gather(*(tool.close() for tool in tools.values()))


UNAVAILABLE: Final = "unavailable"
"""Flag of an output that is the tool's fault, not the argument's: it broke or did not answer."""


def no_result(command: Command) -> ToolResult:
    """`No result.` to a call, in its tool's layout."""
    name = TOOL_OF_API.get(command.api)
    layout: Layout = LAYOUTS[name] if name else "plain"
    return ToolResult(command, ToolOutput(ok=False, layout=layout).body(), ok=False)


async def run_commands(
    tools: Mapping[ToolName, Tool], commands: Sequence[Command], *, max_calls: int = 4
) -> tuple[FinishedCall, ...]:
    """Run the commands of one turn concurrently, at most `max_calls`; the rest is dropped.

    A call that fails, times out or names no tool of `tools` gives `No result.` in that tool's own
    layout; nothing is raised. References are numbered through all searches of the turn.
    """
    kept = list(commands)[:max_calls]
    timed = await asyncio.gather(*(_run_one(tools, command) for command in kept))
    finished: list[FinishedCall] = []
    number = 1
    for command, (output, seconds) in zip(kept, timed, strict=True):
        result = ToolResult(command, output.body(number), ok=output.ok)
        finished.append(FinishedCall(command, output, result, number, seconds))
        number += len(output.references)
    return tuple(finished)


async def _run_one(tools: Mapping[ToolName, Tool], command: Command) -> tuple[ToolOutput, float]:
    started = time.monotonic()
    output = await _call(tools, command)
    return output, time.monotonic() - started


async def _call(tools: Mapping[ToolName, Tool], command: Command) -> ToolOutput:
    name = TOOL_OF_API.get(command.api)
    if name is None or name not in tools:
        layout: Layout = LAYOUTS[name] if name else "plain"
        return ToolOutput(ok=False, layout=layout, reason=f"no tool serves {command.api}")
    tool = tools[name]
    try:
        return await asyncio.wait_for(tool.call(command.argument), timeout=tool.timeout_s)
    except TimeoutError:
        reason = f"{name} gave no answer within {tool.timeout_s:g} s"
    except Exception as error:  # a broken tool must not end the user's turn
        reason = f"{name} failed: {type(error).__name__}: {error}"
    return ToolOutput(ok=False, layout=LAYOUTS[name], reason=reason, flags=(UNAVAILABLE,))
