"""The tools for callers that are not async: a thread of its own runs their event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from moss.chat import Command
from moss.config.tools import ToolsConfig
from moss.tools.base import FinishedCall, Tool
from moss.tools.registry import build_tools, close_tools, run_commands
from moss.types import ToolName

_CLOSE_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class ToolTurn:
    """The commands of one turn, and the tools that are switched on in its conversation."""

    commands: tuple[Command, ...]
    enabled: frozenset[ToolName]


class ToolRunner:
    """Runs the commands of many turns, few turns at once, so that no call spends its time limit in
    a queue. Tools are built at the first turn."""

    def __init__(self, config: ToolsConfig, *, concurrency: int) -> None:
        self._config = config
        self._slots = asyncio.Semaphore(concurrency)
        self._tools: dict[ToolName, Tool] | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tools", daemon=True)
        self._thread.start()

    def run(
        self, turns: Sequence[ToolTurn], *, timeout_s: float
    ) -> list[tuple[FinishedCall, ...] | None]:
        """The finished calls of each turn, in order; None for a turn not done in `timeout_s`.

        A call that fails, or whose tool is off or unknown, is a `No result.` in its tool's layout.

        Raises:
            ResourceError, ConfigError: a tool cannot be built on this machine.
        """
        return asyncio.run_coroutine_threadsafe(self._run(turns, timeout_s), self._loop).result()

    def close(self) -> None:
        """End the tools and the thread."""
        if self._tools is not None:
            closing = close_tools(self._tools)
            asyncio.run_coroutine_threadsafe(closing, self._loop).result(_CLOSE_TIMEOUT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSE_TIMEOUT_S)

    async def _run(
        self, turns: Sequence[ToolTurn], timeout_s: float
    ) -> list[tuple[FinishedCall, ...] | None]:
        if not turns:
            return []
        if self._tools is None:
            self._tools = build_tools(self._config)
        tasks = [asyncio.ensure_future(self._run_turn(turn, self._tools)) for turn in turns]
        _, late = await asyncio.wait(tasks, timeout=timeout_s)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        return [None if task in late else task.result() for task in tasks]

    async def _run_turn(
        self, turn: ToolTurn, tools: dict[ToolName, Tool]
    ) -> tuple[FinishedCall, ...]:
        usable = {name: tool for name, tool in tools.items() if name in turn.enabled}
        async with self._slots:
            return await run_commands(usable, turn.commands, max_calls=self._config.max_calls)
