"""The example scripts, as a user runs them, against the application with a scripted engine."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from moss.chat_rendering import ChatRenderer
from moss.config.serve import ServeChatConfig, TurnConfig
from moss.types import API_NAMES, TOOL_NAMES, ToolName
from serve.app import build_app
from serve.auth import ApiKeys
from serve.chat_service import ChatService
from serve.store import Store
from tests.serve.serving import one_model

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"


@asynccontextmanager
async def serving(service: ChatService) -> AsyncIterator[str]:
    server = uvicorn.Server(
        uvicorn.Config(build_app(service, ApiKeys()), port=0, log_level="warning")
    )
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await task


def test_every_tool_has_an_example() -> None:
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    assert names == {*TOOL_NAMES, "conversation"}


@pytest.mark.parametrize(
    ("tool", "calls"), [*((tool, True) for tool in TOOL_NAMES), ("calculator", False)]
)
async def test_an_example_shows_the_tool_at_work_or_says_that_it_stayed_unused(
    tool: ToolName,
    calls: bool,
    renderer: ChatRenderer,
    scripted: Callable[..., Any],
    spies: dict[ToolName, Any],
    tmp_path: Path,
) -> None:
    command = f'{API_NAMES[tool]}("19")' if calls else "None"
    engine = scripted(inner_thoughts="Hm.", commands=command, moss="12+7 = 19.")
    service = ChatService(
        models=one_model(engine, renderer), tools=spies,
        store=Store(f"sqlite:///{tmp_path}/chat.sqlite"),
        config=ServeChatConfig(meta_version="tiny", turn=TurnConfig(temperature=0)),
    )  # fmt: skip
    async with serving(service) as url:
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(EXAMPLES / f"{tool}.py"), url,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            env={"NO_PROXY": "127.0.0.1", "PATH": ""},
        )  # fmt: skip
        output = (await asyncio.wait_for(process.communicate(), 60))[0].decode()
    assert process.returncode == (0 if calls else 1), output
    assert output.count("moss: 12+7 = 19.") == 4
    assert len(spies[tool].asked) == (4 if calls else 0)
    assert ("did not use calculator in the conversation that begins" in output) is not calls


@pytest.mark.parametrize(("answers", "says"), [(False, "nothing answers at"), (True, "401")])
async def test_an_example_says_what_is_wrong_with_the_service(
    answers: bool, says: str, tmp_path: Path
) -> None:
    """Where nothing listens, and where something refuses every request."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = b'{"error": {"message": "give a key", "code": "missing_api_key"}}'
        head = f"HTTP/1.1 401 Unauthorized\r\ncontent-length: {len(body)}\r\nconnection: close"
        writer.write(head.encode() + b"\r\ncontent-type: application/json\r\n\r\n" + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    if not answers:
        server.close()
        await server.wait_closed()
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(EXAMPLES / "calculator.py"), f"http://127.0.0.1:{port}",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), timeout=60)
    server.close()
    assert process.returncode == 2
    assert says in out.decode()
    assert "Traceback" not in err.decode()
