"""What tools cost by themselves, and what a turn adds to them, against a deployed service."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Final

from moss.chat import Conversation
from moss.chat_rendering import ChatRenderer
from moss.config.serve import ServeChatConfig
from moss.meta_instruction import MetaInstruction
from moss.tools.base import Tool
from moss.types import ToolName
from serve.engines import GenerateParams, TokenDelta

PAGE_BYTES: Final = 50_000
NUM_CALCULATIONS: Final = 200
NUM_EQUATIONS: Final = 40
NUM_TURNS: Final = 100
NUM_PAGES: Final = 7
_WORDS_PER_SENTENCE = (6, 24)
_SYLLABLES = [consonant + vowel for consonant in "bdfglmnprstvwxz" for vowel in "aeiou"]
_CHARACTERS = "天地人山水日月风云雨雪花草树木鸟鱼马牛羊城市国家学校老师学生书本文字工作时间朋友音乐"


async def tool_figures(config: ServeChatConfig) -> dict[str, float]:
    """Medians in milliseconds; `config` is that of the service which runs."""
    from moss.tools.registry import build_tool

    found: dict[str, float] = {}
    draw = random.Random(0)
    sums = [f"{draw.randint(2, 999)}*{draw.randint(2, 99)}+{n}" for n in range(NUM_CALCULATIONS)]
    equations = [f"{draw.randint(2, 9)}*x+{n}={draw.randint(10, 99)}" for n in range(NUM_EQUATIONS)]
    names: tuple[tuple[ToolName, str, list[str]], ...] = (
        ("calculator", "calculator_p50_ms", sums),
        ("equation_solver", "solver_p50_ms", equations),
    )
    for name, figure, questions in names:
        tool = build_tool(name, config.tools)
        try:
            found[figure] = await _median_call_ms(tool, questions)
        finally:
            await tool.close()
    found["textrank_en_ms"] = _summary_ms(english_page(draw), "bade figo")
    found["textrank_zh_ms"] = _summary_ms(chinese_page(draw), "天地人")
    turn_ms = await _median_turn_ms(config, sums[:NUM_TURNS])
    found["tool_turn_overhead_ms"] = round(turn_ms - found["calculator_p50_ms"], 3)
    return found


async def _median_call_ms(tool: Tool, questions: list[str]) -> float:
    seconds = []
    await tool.call(questions[0])  # loads what the first call loads
    for question in questions:
        began = time.perf_counter()
        output = await tool.call(question)
        seconds.append(time.perf_counter() - began)
        if not output.ok:
            raise RuntimeError(f"{tool.name} failed on {question!r}: {output.reason}")
    return round(1000 * statistics.median(seconds), 3)


def _summary_ms(page: str, query: str) -> float:
    from moss.textrank import summarize

    seconds = []
    for _ in range(NUM_PAGES):
        began = time.perf_counter()
        summarize(page, query=query)
        seconds.append(time.perf_counter() - began)
    return round(1000 * statistics.median(seconds), 1)


def english_page(draw: random.Random) -> str:
    """`PAGE_BYTES` of sentences whose words are as unevenly frequent as those of a language."""
    words = ["".join(draw.choices(_SYLLABLES, k=draw.randint(1, 4))) for _ in range(4000)]
    return _page(draw, words, " ", ". ", str.capitalize)


def chinese_page(draw: random.Random) -> str:
    """The same in Chinese characters."""
    words = ["".join(draw.choices(_CHARACTERS, k=draw.randint(1, 3))) for _ in range(4000)]
    return _page(draw, words, "", "。", str)


def _page(
    draw: random.Random, words: list[str], space: str, stop: str, begin: Callable[[str], str]
) -> str:
    frequencies = [1 / rank for rank in range(1, len(words) + 1)]
    page = ""
    while len(page.encode()) < PAGE_BYTES:
        chosen = draw.choices(words, frequencies, k=draw.randint(*_WORDS_PER_SENTENCE))
        page += begin(space.join(chosen)) + stop
    return page


@dataclass(frozen=True, slots=True)
class InstantEngine:
    """Writes a calculation into Commands and one word elsewhere, at once."""

    renderer: ChatRenderer
    question: str
    max_positions: int = 1024

    async def generate(
        self, prompt_ids: list[int], _: GenerateParams
    ) -> AsyncGenerator[TokenDelta]:
        """One delta."""
        from moss.chat import HEADERS

        prompt = self.renderer.tokenizer.decode(prompt_ids)
        section = max(HEADERS, key=lambda name: prompt.rfind(HEADERS[name]))
        text = f' Calculate("{self.question}")' if section == "commands" else " Yes"
        yield TokenDelta(self.renderer.tokenizer.encode(text), "stop")


async def _median_turn_ms(config: ServeChatConfig, sums: list[str]) -> float:
    """A turn through the deployed calculator, with an engine that takes no time."""
    from ray import serve as ray_serve

    from benchmarks.serve_assets import make_tokenizer
    from serve.conversation import collect_turn, walk_turn
    from serve.edge_replica import tool_deployment
    from serve.tool_workers import RemoteTool

    renderer = ChatRenderer(make_tokenizer())
    name: ToolName = "calculator"
    handle = ray_serve.get_deployment_handle(tool_deployment(name), app_name=config.app_name)
    tools: dict[ToolName, Tool] = {
        name: RemoteTool(name, handle, timeout_s=config.tools.call_timeout_s(name))
    }
    conversation = Conversation(MetaInstruction(config.meta_version, True, frozenset(tools)), ())
    seconds = []
    for question in sums:
        engine = InstantEngine(renderer, question)
        began = time.perf_counter()
        turn = walk_turn(engine, tools, renderer, conversation, question, config.turn)
        outcome = await collect_turn(turn)
        seconds.append(time.perf_counter() - began)
        if [call.result.ok for call in outcome.calls] != [True]:
            raise RuntimeError(f"the turn for {question!r} made {outcome.calls}")
    return 1000 * statistics.median(seconds)
