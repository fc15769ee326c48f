from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from moss.chat import Command, format_results, parse_results
from moss.config.tools import ToolsConfig
from moss.tools.base import Layout, Reference, ToolOutput
from moss.tools.registry import LAYOUTS, TOOL_MODULES, build_tools, run_commands
from moss.types import TOOL_NAMES, ToolName


@dataclass
class Fake:
    name: ToolName
    layout: Layout
    timeout_s: float = 0.2
    delay_s: float = 0.0
    num_references: int = 0
    asked: list[str] = field(default_factory=list)

    async def call(self, argument: str) -> ToolOutput:
        self.asked.append(argument)
        await asyncio.sleep(self.delay_s)
        if argument == "boom":
            raise RuntimeError("broken")
        pages = tuple(Reference("t", f"{argument} {n}", "s") for n in range(self.num_references))
        return ToolOutput(ok=True, layout=self.layout, text=argument, references=pages)

    async def close(self) -> None:
        return None


def test_every_tool_has_a_module_a_layout_and_a_timeout() -> None:
    assert set(TOOL_MODULES) == set(LAYOUTS) == set(TOOL_NAMES)
    for name, tool in build_tools(ToolsConfig()).items():
        assert (tool.name, tool.timeout_s) == (name, ToolsConfig().call_timeout_s(name))


async def test_results_stand_in_the_layout_of_each_tool_and_parse_back() -> None:
    tools = {
        name: Fake(name, LAYOUTS[name], num_references=2 if name == "web_search" else 0)
        for name in TOOL_NAMES
    }
    commands = [
        Command("Search", "a"), Command("Calculate", "5"), Command("Solve", "x = 1"),
        Command("Search", "b"),
    ]  # fmt: skip
    calls = await run_commands(tools, commands)
    text = format_results(tuple(call.result for call in calls))
    assert text == (
        "Search(\"a\") =>\n<|1|>: 'a 0'\n<|2|>: 'a 1'\n"
        "Calculate(\"5\") => '5'\n"
        'Solve("x = 1") =>\nx = 1\n'
        "Search(\"b\") =>\n<|3|>: 'b 0'\n<|4|>: 'b 1'"
    )
    assert parse_results(text) == tuple(call.result for call in calls)
    assert [call.first_reference for call in calls] == [1, 3, 3, 3]


async def test_failures_timeouts_and_unknown_tools_read_no_result_in_their_layout() -> None:
    tools: dict[ToolName, Fake] = {
        "calculator": Fake("calculator", "quoted"),
        "equation_solver": Fake("equation_solver", "plain", delay_s=5),
    }
    commands = [Command("Calculate", "boom"), Command("Solve", "x"), Command("Search", "q"),
                Command("Shell", "id")]  # fmt: skip
    started = time.monotonic()
    calls = await run_commands(tools, commands)
    assert time.monotonic() - started < 2
    assert [call.result.text for call in calls] == ["'No result.'"] + ["No result."] * 3
    assert not any(call.result.ok for call in calls)
    assert all(call.output.reason for call in calls)


async def test_at_most_so_many_calls_run_and_they_run_at_once() -> None:
    tool = Fake("calculator", "quoted", timeout_s=5, delay_s=0.2)
    started = time.monotonic()
    commands = [Command("Calculate", str(number)) for number in range(9)]
    calls = await run_commands({"calculator": tool}, commands)
    assert [call.result.text for call in calls] == ["'0'", "'1'", "'2'", "'3'"]
    assert tool.asked == ["0", "1", "2", "3"]
    assert time.monotonic() - started < 0.6
