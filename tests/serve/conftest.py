from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from moss.chat import HEADERS
from moss.chat_rendering import ChatRenderer
from moss.tokenizer import add_controls, train_bpe
from moss.tools.base import Layout, ToolOutput
from moss.types import TOOL_NAMES, Section, ToolName
from serve.chat_service import ChatService
from serve.engines import GenerateParams, TokenDelta
from tests.serve.serving import one_model, service_of

_TEXTS = ["What is 12+7? The capital of France is Paris. 12+7 = 19. 法国的首都是巴黎。"] * 20


@dataclass
class ScriptedEngine:
    """Writes what the script says for each section, one token at a time."""

    renderer: ChatRenderer
    script: dict[Section, str]
    max_positions: int = 512
    delay_s: float = 0.0
    prompts: list[list[int]] = field(default_factory=list)
    asked: list[GenerateParams] = field(default_factory=list)
    num_made: int = 0
    closed: int = 0

    async def generate(
        self, prompt_ids: list[int], params: GenerateParams
    ) -> AsyncGenerator[TokenDelta]:
        self.prompts.append(prompt_ids)
        self.asked.append(params)
        ids = self.renderer.tokenizer.encode(self.script.get(self._section(prompt_ids), "None"))
        finish = "stop" if len(ids) <= params.max_new_tokens else "length"
        try:
            for token in ids[: params.max_new_tokens]:
                await asyncio.sleep(self.delay_s)
                self.num_made += 1
                yield TokenDelta([token])
            yield TokenDelta([], finish)  # type: ignore[arg-type]
        finally:
            self.closed += 1

    def _section(self, prompt_ids: list[int]) -> Section:
        text = self.renderer.tokenizer.decode(prompt_ids)
        return max(HEADERS, key=lambda section: text.rfind(HEADERS[section]))


@dataclass
class SpyTool:
    """Answers at once and remembers what it was asked."""

    name: ToolName
    asked: list[str] = field(default_factory=list)
    layout: Layout = "plain"
    timeout_s: float = 1.0
    answer: str = "19"

    async def call(self, argument: str) -> ToolOutput:
        self.asked.append(argument)
        return ToolOutput(ok=True, layout=self.layout, text=self.answer)

    async def close(self) -> None:
        return None


@pytest.fixture(scope="session")
def renderer() -> ChatRenderer:
    return ChatRenderer(add_controls(train_bpe(_TEXTS, vocab_size=300), style="special"))


@pytest.fixture
def scripted(renderer: ChatRenderer) -> Callable[..., ScriptedEngine]:
    def make(**script: str) -> ScriptedEngine:
        return ScriptedEngine(renderer, {key: f" {text}" for key, text in script.items()})  # type: ignore[misc]

    return make


@pytest.fixture
def spies() -> dict[ToolName, SpyTool]:
    return {name: SpyTool(name) for name in TOOL_NAMES}


@pytest.fixture
def service(
    engine: Any, renderer: ChatRenderer, spies: dict[ToolName, Any], tmp_path: Path
) -> Iterator[ChatService]:
    """What a test's own `engine` fixture answers for."""
    made = service_of(one_model(engine, renderer), spies, tmp_path)
    yield made
    made.store.close()
