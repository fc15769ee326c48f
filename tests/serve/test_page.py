"""The chat page in Chromium, against the real application with a scripted engine."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import uvicorn

from moss.chat_rendering import ChatRenderer
from moss.config.serve import ServeChatConfig, TurnConfig
from moss.types import ToolName
from serve.app import build_app
from serve.auth import ApiKeys
from serve.chat_service import ChatService
from serve.store import Store
from tests.serve.serving import one_model

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium (apt-get install chromium)"),
]
HOSTILE = '<img src=x onerror="document.title=1"><script>document.title=2</script>'


class Service:
    def __init__(self, url: str, engine: Any, store: Store) -> None:
        self.url, self.engine, self.store = url, engine, store


@pytest_asyncio.fixture
async def service(
    renderer: ChatRenderer, scripted: Callable[..., Any], spies: dict[ToolName, Any], tmp_path: Path
) -> AsyncIterator[Service]:
    engine = scripted(
        inner_thoughts="This is a calculation.", commands='Calculate("12+7")',
        moss="12+7 = 19.<sup><|1|></sup>",
    )  # fmt: skip
    config = ServeChatConfig(meta_version="tiny", turn=TurnConfig(temperature=0))
    store = Store(f"sqlite:///{tmp_path}/chat.sqlite")
    chat = ChatService(
        models=one_model(engine, renderer), tools=spies, store=store, config=config,
    )  # fmt: skip
    server = uvicorn.Server(uvicorn.Config(build_app(chat, ApiKeys()), port=0, log_level="warning"))
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield Service(f"http://127.0.0.1:{port}", engine, store)
    server.should_exit = True
    await task


@pytest_asyncio.fixture
async def page(service: Service) -> AsyncIterator[Any]:
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        context = await browser.new_context(locale="en-US", viewport={"width": 1200, "height": 800})
        page = await context.new_page()
        problems: list[str] = []
        page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        foreign: list[str] = []
        page.on(
            "request", lambda r: None if r.url.startswith(service.url) else foreign.append(r.url)
        )
        await page.goto(service.url)
        await page.wait_for_selector(".chip")
        yield page
        assert problems == []
        assert foreign == []
        await browser.close()


async def ask(page: Any, text: str) -> Any:
    await page.fill("#prompt", text)
    await page.press("#prompt", "Enter")
    return page.locator(".exchange").last


async def finished(exchange: Any) -> None:
    await exchange.locator(".actions button").first.wait_for(timeout=30_000)


async def test_an_answer_streams_with_its_tool_steps_and_can_be_rated(
    page: Any, service: Service
) -> None:
    service.engine.delay_s = 0.01
    exchange = await ask(page, "What is 12+7?")
    await finished(exchange)
    assert await exchange.locator(".reply").inner_text() == "12+7 = 19.1"
    assert await exchange.locator(".step.done .value").inner_text() == "19"
    assert await exchange.locator("sup.citation").inner_text() == "1"
    await exchange.get_by_label("Good answer").click()
    await page.wait_for_selector('[aria-label="Good answer"][aria-pressed="true"]')
    await page.locator("#conversations .entry").first.click()
    await page.wait_for_selector('[aria-label="Good answer"][aria-pressed="true"]')


async def test_a_switch_turns_a_tool_off_for_the_model(
    page: Any, service: Service, spies: dict[ToolName, Any]
) -> None:
    await page.click('[data-tool="calculator"]')
    assert await page.get_attribute('[data-tool="calculator"]', "aria-pressed") == "false"
    exchange = await ask(page, "What is 12+7?")
    await finished(exchange)
    assert not spies["calculator"].asked
    assert await exchange.locator(".step.dropped").count() == 1


async def test_stop_ends_generation_at_the_server(page: Any, service: Service) -> None:
    service.engine.script["moss"] = " word" * 400
    service.engine.delay_s = 0.02
    exchange = await ask(page, "Go on")
    await exchange.locator(".reply", has_text="word").wait_for()
    await page.click("#stop")
    await finished(exchange)
    await asyncio.sleep(0.5)
    made = service.engine.num_made
    await asyncio.sleep(0.3)
    assert service.engine.num_made == made
    assert await exchange.locator(".note").inner_text() == "Stopped."


async def test_regenerate_replaces_the_answer(page: Any, service: Service) -> None:
    await finished(await ask(page, "What is 12+7?"))
    service.engine.script["moss"] = " Nineteen."
    await page.get_by_label("Regenerate").click()
    await page.locator(".reply", has_text="Nineteen").wait_for()
    await finished(page.locator(".exchange").last)
    assert await page.locator(".exchange").count() == 1


async def test_nothing_that_reaches_the_page_becomes_markup(
    page: Any, service: Service, spies: dict[ToolName, Any]
) -> None:
    service.engine.script |= {
        "inner_thoughts": f" {HOSTILE}", "moss": f" {HOSTILE}",
        "commands": f" Calculate({json.dumps(HOSTILE)})",
    }  # fmt: skip
    spies["calculator"].answer = HOSTILE
    exchange = await ask(page, HOSTILE)
    await finished(exchange)
    await page.locator("#conversations .entry").first.click()
    await finished(page.locator(".exchange").last)
    assert await page.title() == "MOSS"
    assert await page.locator("#messages img, #messages script, aside ul img").count() == 0
    assert await exchange.locator(".human").inner_text() == HOSTILE


async def test_consent_is_asked_for_and_travels_with_each_turn(page: Any, service: Service) -> None:
    await finished(await ask(page, "first"))
    await page.select_option("#consent", "improve")
    await finished(await ask(page, "second"))
    assert [row.prompt for row in service.store.consented_prompts()] == ["second"]


async def test_the_page_speaks_chinese_and_fits_a_phone(page: Any) -> None:
    await page.click("#language")
    assert "有什么可以帮您" in await page.inner_text("#welcome")
    await page.set_viewport_size({"width": 360, "height": 740})
    width = await page.evaluate("document.documentElement.scrollWidth")
    assert width <= 360
    await page.click("#menu")
    assert await page.locator("#new-chat").is_visible()
