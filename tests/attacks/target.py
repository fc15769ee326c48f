"""The attacked service: the real application over HTTP, its model and tools played by stand-ins.

Usage: python -m tests.attacks.target FOLDER   (prints its port, serves until its input closes)

The model echoes: whatever the last user message holds comes back as thoughts, as the argument of
two commands, as the tools' results and references, and as the reply. A message that begins with
`SLOW` is answered by an endless trickle of large pieces.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import uvicorn
import yaml

from moss.api_keys import key_digest
from moss.chat import END_MARKERS, HEADERS, unescape
from moss.chat_rendering import ChatRenderer
from moss.config.serve import HttpConfig, ServeChatConfig, TurnConfig
from moss.tokenizer import add_controls, train_bpe
from moss.tools.base import Reference, Tool, ToolOutput
from moss.types import Section, ToolName
from serve.app import build_app
from serve.auth import ApiKeys
from serve.chat_service import ChatService
from serve.engines import GenerateParams, TokenDelta
from serve.store import Store
from tests.serve.serving import one_model

MAX_BODY_BYTES = 256 * 1024
MAX_ONGOING = 4
TIMEOUT_S = 2.0
"""Of reading a body and of writing a piece of an answer."""
KEYS: dict[str, dict[str, object]] = {
    "alice": {}, "bob": {}, "counting": {"tools": ["calculator"]}, "foreign": {"models": ["other"]},
    "gone": {"revoked": True}, "late": {"expires": datetime(2020, 1, 1, tzinfo=UTC)},
    "narrow": {"requests_per_minute": 1, "max_ongoing": 1},
}  # fmt: skip


def key(name: str) -> str:
    """The secret of a named key."""
    return f"moss-secret-of-{name}"


@dataclass
class EchoEngine:
    """Echoes the last user message in every section."""

    renderer: ChatRenderer
    max_positions: int = 1 << 16

    async def generate(
        self, prompt_ids: list[int], params: GenerateParams
    ) -> AsyncGenerator[TokenDelta]:
        text = self.renderer.tokenizer.decode(prompt_ids)
        section = max(HEADERS, key=lambda name: text.rfind(HEADERS[name]))
        message = text.rpartition(HEADERS["human"])[2].partition(END_MARKERS["human"])[0]
        message = unescape(message.removeprefix(" "))
        if message.startswith("SLOW") and section == "moss":
            filler = self.renderer.tokenizer.encode("x" * 20_000)
            while True:
                await asyncio.sleep(0.01)
                yield TokenDelta(filler)
        encode = self.renderer.tokenizer.encode
        yield TokenDelta(encode(f" {self._section(section, message)}"), "stop")

    def _section(self, section: Section, message: str) -> str:
        if section == "commands":
            argument = json.dumps(message, ensure_ascii=False)
            return f"Calculate({argument}), Search({argument})"
        return message


@dataclass
class EchoTool:
    """Echoes its argument as result, title, text and address."""

    name: ToolName
    timeout_s: float = 5.0

    async def call(self, argument: str) -> ToolOutput:
        if self.name == "web_search":
            page = Reference(title=argument, text=argument, source=argument)
            return ToolOutput(ok=True, layout="references", references=(page,))
        return ToolOutput(ok=True, layout="quoted", text=argument)

    async def close(self) -> None:
        return None


def write_keys(file: Path, entries: Mapping[str, Mapping[str, object]]) -> None:
    """A file of keys, each labelled with its name."""
    keys = [{"sha256": key_digest(key(name)), "label": name, **entry}
            for name, entry in entries.items()]  # fmt: skip
    file.write_text(yaml.safe_dump({"keys": keys}), encoding="utf-8")


def build_service(folder: Path) -> ChatService:
    """The service over stand-ins."""
    renderer = ChatRenderer(add_controls(train_bpe(["What is 12+7?"], vocab_size=260),
                                         style="special"))  # fmt: skip
    names: tuple[ToolName, ...] = ("calculator", "web_search")
    tools: dict[ToolName, Tool] = {name: EchoTool(name) for name in names}
    http = HttpConfig(
        api_key_file=str(folder / "keys.yaml"), max_body_bytes=MAX_BODY_BYTES,
        read_timeout_s=TIMEOUT_S, write_timeout_s=TIMEOUT_S, max_ongoing=MAX_ONGOING,
    )  # fmt: skip
    config = ServeChatConfig.model_validate(
        {"meta_version": "tiny", "http": http, "turn": TurnConfig(temperature=0),
         "tools": {"enabled": names, "text_to_image": {"image_folder": str(folder)}},
         "default_tools": names}
    )  # fmt: skip
    return ChatService(
        models=one_model(EchoEngine(renderer), renderer), tools=tools,
        store=Store(f"sqlite:///{folder}/chat.sqlite"), config=config,
    )  # fmt: skip


async def serve(folder: Path) -> None:
    """Serve on a free port until standard input closes."""
    write_keys(folder / "keys.yaml", KEYS)
    service = build_service(folder)
    app = build_app(service, ApiKeys.load(service.config.http, {}))
    listener = socket.create_server(("127.0.0.1", 0))
    # Small, so that a client that stops reading is noticed after kilobytes, not megabytes.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
    server = uvicorn.Server(uvicorn.Config(app, log_level="debug", http="h11"))
    task = asyncio.create_task(server.serve([listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    print(listener.getsockname()[1], flush=True)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # nobody reads the pipe that logs would fill
    await asyncio.to_thread(sys.stdin.read)
    server.should_exit = True
    await task


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
