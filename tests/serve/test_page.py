"""The chat page in Chromium, against the real application with a scripted engine."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import uvicorn

from moss.api_keys import key_digest
from moss.chat_rendering import ChatRenderer
from moss.config.api_keys import ApiKeyConfig
from moss.config.serve import HttpConfig, ServeChatConfig, TurnConfig
from moss.tools.base import Reference, ToolOutput
from moss.types import ToolName
from serve.app import build_app
from serve.auth import ApiKeys
from serve.chat_service import ChatService
from serve.model_router import ModelRouter
from serve.store import CONSENT_VERSION, Store
from tests.serve.serving import one_model, route

TURN = TurnConfig(
    temperature=0, max_thought_tokens=1000, max_command_tokens=1000, max_reply_tokens=3000
)
AXE = resources.files("axe_playwright_python") / "axe.min.js"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.asyncio(loop_scope="module"),  # one browser for all tests
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium (apt-get install chromium)"),
]
HOSTILE = '<img src=x onerror="document.title=1"><script>document.title=2</script>'
HOSTILE_MARKDOWN = f"""{HOSTILE}
[link](javascript:document.title=3) ![picture](https://elsewhere.example/x.png)

<a href="javascript:alert(1)">a</a>

[d]: javascript:document.title=4
[d] <svg onload="document.title=5"> $\\href{{javascript:document.title=6}}{{x}}$ <!-- {HOSTILE} -->

```html
{HOSTILE}
```
"""
RICH = """# Roots

The roots of $x^2=4$:

$$x=\\pm\\sqrt{4}$$

```python
def root(x: float) -> float:
    return x ** 0.5  # one of two
```

| a | b |
|---|--:|
| 1 | 2 |
"""


@dataclass
class Service:
    url: str
    engine: Any
    store: Store
    chat: ChatService


@asynccontextmanager
async def serving(
    engine: Any,
    tools: dict[ToolName, Any],
    tmp_path: Path,
    keys: ApiKeys,
    models: ModelRouter | None = None,
    **http: Any,
) -> AsyncIterator[Service]:
    config = ServeChatConfig(meta_version="tiny", turn=TURN, http=HttpConfig(**http))
    store = Store(f"sqlite:///{tmp_path}/chat.sqlite")
    chat = ChatService(
        models=models or one_model(engine, engine.renderer), tools=tools, store=store,
        config=config,
    )  # fmt: skip
    settings = uvicorn.Config(
        build_app(chat, keys), port=0, log_level="critical", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(settings)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield Service(f"http://127.0.0.1:{port}", engine, store, chat)
    server.should_exit = True
    await task


@pytest.fixture
def engine(renderer: ChatRenderer, scripted: Callable[..., Any]) -> Any:
    made = scripted(
        inner_thoughts="This is a calculation.", commands='Calculate("12+7")',
        moss="12+7 = 19.<sup><|1|></sup>",
    )  # fmt: skip
    made.max_positions = 8192
    return made


@pytest_asyncio.fixture(loop_scope="module")
async def service(
    engine: Any, spies: dict[ToolName, Any], tmp_path: Path
) -> AsyncIterator[Service]:
    async with serving(engine, spies, tmp_path, ApiKeys()) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Any]:
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        found = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield found
        await found.close()


@asynccontextmanager
async def opened(browser: Any, url: str, **settings: Any) -> AsyncIterator[Any]:
    """The page; at the end it must have logged no error and asked no other host."""
    settings = {"locale": "en-US", "viewport": {"width": 1200, "height": 800}} | settings
    context = await browser.new_context(**settings)
    context.set_default_timeout(15_000)
    page = await context.new_page()
    problems: list[str] = []
    foreign: list[str] = []

    def note(message: Any) -> None:
        # Refusals are part of some tests; the browser logs each as a failed load.
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            problems.append(message.text)

    page.on("console", note)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "request", lambda r: None if r.url.startswith((url, "blob:")) else foreign.append(r.url)
    )
    await page.goto(url)
    await page.locator("#message").wait_for()
    yield page
    assert problems == []
    assert foreign == []
    await context.close()


@pytest_asyncio.fixture(loop_scope="module")
async def page(service: Service, browser: Any) -> AsyncIterator[Any]:
    async with opened(browser, service.url) as ready:
        await ready.locator(".switches .chip").first.wait_for()
        yield ready


async def ask(page: Any, text: str) -> Any:
    await page.fill("#message", text)
    await page.press("#message", "Enter")
    return page.locator(".exchange").last


async def finished(exchange: Any) -> None:
    await exchange.locator(".answer > .actions").wait_for()


async def asked(page: Any, text: str) -> Any:
    exchange = await ask(page, text)
    await finished(exchange)
    return exchange


async def owner_of(page: Any) -> str:
    """Who the server takes the page's visitor for."""
    cookies = {item["name"]: item["value"] for item in await page.context.cookies()}
    return hashlib.sha256(f"open\n{cookies['moss_user']}".encode()).hexdigest()


async def eventually(check: Callable[[], bool]) -> None:
    for _ in range(250):
        if check():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not come true within 5 s")


async def test_an_answer_streams_with_live_tool_steps(
    page: Any, service: Service, spies: dict[ToolName, Any]
) -> None:
    gate = asyncio.Event()
    answer = spies["calculator"].call

    async def slow(argument: str) -> ToolOutput:
        await gate.wait()
        output: ToolOutput = await answer(argument)
        return output

    spies["calculator"].call = slow
    service.engine.delay_s = 0.005
    exchange = await ask(page, "What is 12+7?")
    running = exchange.locator(".step.is-running")
    await running.wait_for()
    assert await running.inner_text() == 'Calculate("12+7")\nrunning'
    gate.set()
    await finished(exchange)
    assert await exchange.locator(".step.is-done .value").inner_text() == "19"
    assert await exchange.locator(".reply").inner_text() == "12+7 = 19.1"
    await exchange.get_by_role("button", name="Thoughts").click()
    assert await exchange.locator(".step-body").inner_text() == "This is a calculation."


async def test_citations_lead_to_their_sources(
    page: Any, service: Service, spies: dict[ToolName, Any]
) -> None:
    sources = (
        Reference("Paris", "Capital of France.", "https://en.example.org/paris"),
        Reference("Seine", "A river.", "corpus-7"),
    )

    async def search(argument: str) -> ToolOutput:
        return ToolOutput(ok=True, layout="references", references=sources)

    spies["web_search"].call = search
    service.engine.script |= {"commands": ' Search("Paris")', "moss": " Paris.<sup><|2|></sup>"}
    exchange = await asked(page, "Where?")
    await exchange.get_by_role("button", name="Source 2: Seine").click()
    reached = await page.evaluate("document.activeElement.innerText")
    assert reached.split() == ["2", "Seine", "corpus-7", "A", "river."]
    link = exchange.get_by_role("link", name="Paris")
    assert await link.get_attribute("href") == "https://en.example.org/paris"
    assert await link.get_attribute("rel") == "noopener noreferrer nofollow"
    assert await exchange.locator(".value").inner_text() == "2 sources"


async def test_answers_are_rated_with_reasons(page: Any, service: Service) -> None:
    exchange = await asked(page, "first")
    await exchange.get_by_label("Bad answer").click()
    await exchange.get_by_role("button", name="Not correct").click()
    await exchange.get_by_label("Tell us more").fill("It is 20.")
    await exchange.get_by_role("button", name="Send feedback").click()
    owner = await owner_of(page)

    def stored() -> tuple[int, str, str]:
        [conversation] = service.store.conversations(owner, limit=10, offset=0)
        [row] = service.store.turns(owner, conversation.id)
        return row.rating, row.reason, row.comment

    await eventually(lambda: stored() == (-1, "incorrect", "It is 20."))
    await page.reload()
    await page.locator(".entry .title").first.click()
    await page.locator('[aria-label="Bad answer"][aria-pressed="true"]').wait_for()


async def test_a_switch_turns_a_tool_off_for_the_model(
    page: Any, spies: dict[ToolName, Any]
) -> None:
    await page.click('[data-tool="calculator"]')
    assert await page.get_attribute('[data-tool="calculator"]', "aria-pressed") == "false"
    exchange = await asked(page, "What is 12+7?")
    assert not spies["calculator"].asked
    assert await exchange.locator(".step.is-dropped").count() == 1
    await page.get_by_role("button", name="New chat").first.click()
    await page.click('[data-tool="calculator"]')  # on, in the new conversation only
    await page.locator(".entry .title").first.click()
    await page.locator('[data-tool="calculator"][aria-pressed="false"]').wait_for()


async def test_quality_and_thoughts_are_chosen_per_request(page: Any, service: Service) -> None:
    await page.get_by_label("Answer options").first.click()
    await page.locator('[data-option="quality"]').fill("2")
    await page.get_by_role("switch").uncheck()
    await page.keyboard.press("Escape")
    exchange = await asked(page, "What is 12+7?")
    assert await exchange.get_by_role("button", name="Thoughts").count() == 0
    last = service.engine.renderer.tokenizer.decode(service.engine.prompts[-1])
    assert "<quality: 40>" in last
    assert await page.get_by_label("Model").input_value() == "MOSS-PAT"


async def test_stop_ends_generation_at_the_server(page: Any, service: Service) -> None:
    service.engine.script["moss"] = " word" * 400
    service.engine.delay_s = 0.02
    exchange = await ask(page, "Go on")
    await exchange.locator(".reply", has_text="word word").wait_for()
    await page.keyboard.press("Escape")
    await finished(exchange)
    await eventually(lambda: service.engine.closed == len(service.engine.asked))
    assert service.engine.num_made < 300
    assert "You stopped this answer" in await exchange.locator(".note").inner_text()
    service.engine.script["moss"], service.engine.delay_s = " rest", 0
    await exchange.get_by_role("button", name="Continue").click()
    await finished(page.locator(".exchange").nth(1))
    assert "> word word" in await page.locator(".bubble").last.inner_text()


async def test_markdown_code_and_formulas_are_drawn(page: Any, service: Service) -> None:
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    service.engine.script["moss"] = RICH
    exchange = await asked(page, "Explain")
    await exchange.locator("math").nth(1).wait_for()
    assert await exchange.locator("math msqrt").count() == 1
    await exchange.locator(".hl-keyword", has_text="def").wait_for()
    code = await exchange.locator("pre code").inner_text()
    assert code == "def root(x: float) -> float:\n    return x ** 0.5  # one of two"
    assert await exchange.locator("td").all_inner_texts() == ["1", "2"]
    await exchange.get_by_label("Copy code").click()
    await exchange.get_by_label("Copied").wait_for()
    assert await page.evaluate("navigator.clipboard.readText()") == code


async def test_nothing_that_reaches_the_page_becomes_markup(
    page: Any, service: Service, spies: dict[ToolName, Any]
) -> None:
    service.engine.script |= {
        "inner_thoughts": f" {HOSTILE}", "moss": f" {HOSTILE_MARKDOWN}",
        "commands": f" Calculate({json.dumps(HOSTILE)}), Search({json.dumps(HOSTILE)})",
    }  # fmt: skip
    spies["calculator"].answer = HOSTILE

    async def search(argument: str) -> ToolOutput:
        bad = Reference(HOSTILE, HOSTILE, "javascript:document.title=7")
        return ToolOutput(ok=True, layout="references", references=(bad,))

    spies["web_search"].call = search
    exchange = await asked(page, HOSTILE)
    for attempt in ("streamed", "stored"):
        for button in await exchange.locator("button.step-head").all():
            await button.click()
        await exchange.locator(".maths math, .maths .temml-error").first.wait_for()
        assert await page.title() == "MOSS", attempt
        assert (
            await page.locator(".layout script, .exchange img, .exchange svg[onload]").count() == 0
        )
        hrefs = await page.locator(".exchange a").evaluate_all("all => all.map(a => a.protocol)")
        assert set(hrefs) == {"https:"}, attempt  # the foreign picture, as a link
        assert await exchange.locator(".bubble").inner_text() == HOSTILE
        await page.reload()
        await page.locator(".entry .title").first.click()
        await finished(page.locator(".exchange").last)


async def test_text_that_is_nested_too_deeply_is_shown_as_it_is(
    page: Any, service: Service
) -> None:
    service.engine.script |= {"inner_thoughts": " None", "commands": " None", "moss": ">" * 400}
    exchange = await asked(page, "Quote")
    assert await exchange.locator(".reply").inner_text() == ">" * 400


async def test_consent_is_none_until_given_and_travels_with_each_turn(
    page: Any, service: Service
) -> None:
    assert "not used for training" in await page.locator(".welcome .consent-line").inner_text()
    await asked(page, "first")
    await page.get_by_role("button", name="Settings").click()
    await page.get_by_role("button", name="Change…").click()
    await page.get_by_text(
        "Names of people, postal addresses and dates of birth stay in"
    ).wait_for()
    await page.get_by_label("My prompts may be used").check(force=True)
    await page.get_by_role("button", name="Save").click()
    await page.get_by_role("dialog").wait_for(state="detached")
    await asked(page, "second")
    assert [row.prompt for row in service.store.consented_prompts()] == ["second"]


async def test_consent_to_an_older_text_no_longer_counts(page: Any, service: Service) -> None:
    service.store.record_consent(await owner_of(page), "improve", CONSENT_VERSION - 1)
    await page.reload()
    await asked(page, "first")
    assert service.store.consented_prompts() == []
    await page.get_by_role("button", name="Settings").click()
    await page.get_by_role("button", name="Change…").click()
    await page.get_by_text("This text has changed").wait_for()


async def test_edits_and_new_answers_are_branches_to_switch_between(
    page: Any, service: Service
) -> None:
    exchanges, script = page.locator(".exchange"), service.engine.script
    script |= {"inner_thoughts": " None", "commands": " None", "moss": " One."}
    await asked(page, "first")
    await asked(page, "second")
    script["moss"] = " Two."
    await exchanges.first.get_by_label("Edit message").click()
    await page.get_by_role("textbox", name="Edit message").fill("edited")
    await page.keyboard.press("Enter")
    await page.locator(".reply", has_text="Two.").wait_for()
    await finished(exchanges.first)
    assert await exchanges.count() == 1
    script["moss"] = " Three."
    await exchanges.first.get_by_label("Regenerate").click()
    await page.locator(".reply", has_text="Three.").wait_for()
    await finished(exchanges.first)
    asked_again = service.engine.asked[-1]
    assert asked_again.temperature == 0.7
    assert asked_again.seed != service.engine.asked[0].seed
    questions = page.get_by_label("Version of the question")
    answers = page.get_by_label("Version of the answer")
    assert await questions.inner_text() == await answers.inner_text() == "2/2"
    await answers.get_by_label("Previous version").click()
    await answers.get_by_text("1/2").wait_for()
    await questions.get_by_label("Previous version").click()
    await questions.get_by_text("1/2").wait_for()
    assert await answers.count() == 0
    assert await page.locator(".bubble").all_inner_texts() == ["first", "second"]
    await asked(page, "third")  # goes on from the branch that is shown
    last = service.engine.renderer.tokenizer.decode(service.engine.prompts[-1])
    assert last.count("first") == last.count("second") == 1
    assert "edited" not in last
    await page.reload()  # the address names the conversation
    await exchanges.nth(2).wait_for()
    assert await page.locator(".bubble").all_inner_texts() == ["first", "second", "third"]
    await page.get_by_role("button", name="New chat").first.click()
    await page.locator(".welcome").wait_for()
    await page.go_back()
    await exchanges.nth(2).wait_for()
    await page.go_forward()
    await page.locator(".welcome").wait_for()
    await page.goto(f"{service.url}/#/c/{'0' * 32}")
    await page.get_by_text("This conversation is not here").wait_for()
    assert await page.locator(".welcome").is_visible()
    assert page.url == f"{service.url}/"


async def test_a_stopped_answer_leaves_the_conversation_as_it_was(
    page: Any, service: Service
) -> None:
    exchanges, script = page.locator(".exchange"), service.engine.script
    script |= {"inner_thoughts": " None", "commands": " None", "moss": " One."}
    await asked(page, "first")
    await asked(page, "second")
    script["moss"], service.engine.delay_s = " word" * 400, 0.02
    await exchanges.first.get_by_label("Regenerate").click()
    await exchanges.first.locator(".reply", has_text="word").wait_for()
    await page.get_by_label("Stop").click()
    await finished(exchanges.first)
    script["moss"], service.engine.delay_s = " Two.", 0
    await asked(page, "third")  # follows what the server has above, which is nothing
    last = service.engine.renderer.tokenizer.decode(service.engine.prompts[-1])
    assert not any(word in last for word in ("first", "second"))
    assert "third" in last


async def test_conversations_are_found_renamed_and_deleted(page: Any, service: Service) -> None:
    service.engine.script["moss"] = " Under the Eiffel tower."
    await asked(page, "alpha")
    await page.get_by_role("button", name="New chat").first.click()
    service.engine.script["moss"] = " Nothing."
    await asked(page, "beta")
    await page.fill("#search", "eiffel")  # stands in an answer
    titles = page.locator(".entry .title")
    await page.locator(".entry small", has_text="Under the Eiffel tower.").wait_for()
    assert await page.locator(".entry mark").all_inner_texts() == ["Eiffel"]
    assert await titles.count() == 1
    await page.fill("#search", "no such words")
    await page.get_by_text("Nothing found").wait_for()
    await page.fill("#search", "")
    await page.locator(".entry").nth(1).wait_for()
    assert await titles.all_inner_texts() == ["beta", "alpha"]
    await page.locator(".entry").first.hover()
    await page.get_by_label("More: beta").click()
    await page.get_by_role("menuitem", name="Rename").click()
    await page.get_by_label("Rename").fill("gamma")
    await page.keyboard.press("Enter")
    await page.locator(".entry", has_text="gamma").hover()
    await page.get_by_label("More: gamma").click()
    await page.get_by_role("menuitem", name="Delete").click()
    await page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    await page.locator(".entry", has_text="gamma").wait_for(state="detached")
    assert await titles.all_inner_texts() == ["alpha"]
    assert await page.locator(".welcome").is_visible()  # the open one was deleted


async def test_conversations_are_exported_and_imported(
    page: Any, service: Service, tmp_path: Path
) -> None:
    await asked(page, HOSTILE)
    await page.locator(".entry").first.hover()
    await page.locator(".entry .menu button").first.click()
    async with page.expect_download() as markdown:
        await page.get_by_role("menuitem", name="Markdown").click()
    text = (await (await markdown.value).path()).read_text(encoding="utf-8")
    assert "12+7 = 19.[1]" in text
    await page.get_by_role("button", name="Settings").click()
    async with page.expect_download() as exported:
        await page.get_by_role("button", name="Export all").click()
    file = tmp_path / "export.json"
    await (await exported.value).save_as(file)
    assert json.loads(file.read_text(encoding="utf-8"))["format"] == "moss-chat"
    await page.get_by_role("button", name="Delete all").click()
    await page.locator(".dialog.is-small").get_by_role("button", name="Delete all").click()
    await page.locator(".entry").wait_for(state="detached")
    await page.locator("input[type=file]").set_input_files(file)
    await page.locator(".reply", has_text="12+7 = 19").wait_for()
    assert await page.locator(".bubble").inner_text() == HOSTILE
    await asked(page, "go on")  # an imported conversation can be continued
    assert await page.title() == "MOSS"
    (tmp_path / "bad.json").write_text('{"format": "other"}', encoding="utf-8")
    await page.get_by_role("button", name="Settings").click()
    await page.locator("input[type=file]").set_input_files(tmp_path / "bad.json")
    await page.get_by_text("not a conversation export").wait_for()


async def test_the_page_works_by_keyboard_alone(page: Any, service: Service) -> None:
    await page.keyboard.type("What is 12+7?")  # the message box has the focus
    await page.keyboard.press("Enter")
    await finished(page.locator(".exchange"))
    assert await page.evaluate("document.activeElement.id") == "message"
    assert "12+7 = 19" in await page.locator("[role=status]").inner_text()
    await page.keyboard.press("Control+k")
    await eventually_focused(page, "search")
    await page.keyboard.type("12+7")
    await page.keyboard.press("Tab")
    assert await page.evaluate("document.activeElement.className") == "title"
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await becomes_true(page, "document.activeElement.getAttribute('role') === 'menuitem'")
    await page.keyboard.press("ArrowUp")  # to the last one
    await page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    await dialog.get_by_role("button", name="Delete").press("Enter")
    await page.locator(".entry").wait_for(state="detached")
    assert service.store.conversations(await owner_of(page), limit=10, offset=0) == []
    await page.reload()
    await page.locator(".switches .chip").first.wait_for()
    skip = page.locator("a, button, input, textarea, select").first
    await skip.focus()
    assert "Skip" in await skip.inner_text()
    await page.keyboard.press("Enter")
    assert await page.evaluate("document.activeElement.id") == "message"


async def eventually_focused(page: Any, name: str) -> None:
    await becomes_true(page, f"document.activeElement.id === '{name}'")


async def becomes_true(page: Any, expression: str) -> None:
    """As Playwright's `wait_for_function`, whose polls the page's policy forbids."""
    for _ in range(250):
        if await page.evaluate(expression):
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"{expression} did not come true within 5 s")


async def test_everything_that_can_be_pressed_has_a_name(page: Any) -> None:
    await asked(page, "What is 12+7?")
    nameless = """all => all.filter(node => !(node.getAttribute('aria-label') || node.innerText
        || node.labels?.length || node.title)).map(node => node.outerHTML)"""
    found = await page.locator("button, a, input, select, textarea").evaluate_all(nameless)
    assert found == []


async def test_a_broken_answer_is_shown_as_such_and_asked_again(
    page: Any, service: Service
) -> None:
    cut = 'data: {"choices": [{"delta": {"content": "Half an"}, "finish_reason": null}]}\n\n'

    async def break_off(route: Any) -> None:
        await route.fulfill(body=cut, content_type="text/event-stream")

    await page.route("**/v1/chat/completions", break_off)
    exchange = await ask(page, "What is 12+7?")
    await exchange.locator(".failure").wait_for()
    assert "broke before the answer was complete" in await exchange.locator(".failure").inner_text()
    assert await exchange.locator(".reply").inner_text() == "Half an"
    assert await exchange.get_by_label("Good answer").count() == 0
    await page.unroute("**/v1/chat/completions")
    await exchange.get_by_role("button", name="Try again").click()
    await page.locator(".reply", has_text="12+7 = 19").wait_for()
    assert await page.locator(".exchange").count() == 1


async def test_a_lost_connection_keeps_the_draft_and_comes_back(page: Any) -> None:
    await page.context.set_offline(True)
    exchange = await ask(page, "What is 12+7?")
    await page.locator(".banner").wait_for()
    assert await page.get_by_role("button", name="Try again").count() == 1
    await page.fill("#message", "a draft")
    await page.press("#message", "Enter")
    assert await page.input_value("#message") == "a draft"
    await page.context.set_offline(False)
    await page.locator(".banner").wait_for(state="detached")
    await exchange.get_by_role("button", name="Try again").click()
    await page.locator(".reply", has_text="12+7 = 19").wait_for()


async def test_a_busy_service_is_waited_for_with_a_countdown(
    browser: Any, engine: Any, spies: dict[ToolName, Any], tmp_path: Path
) -> None:
    async with (
        serving(engine, spies, tmp_path, ApiKeys(), max_ongoing=1, retry_after_s=2) as service,
        opened(browser, service.url) as page,
    ):
        await page.locator(".switches .chip").first.wait_for()
        with service.chat.admitted():
            exchange = await ask(page, "What is 12+7?")
            waiting = exchange.get_by_role("button", name="Try again in")
            await waiting.wait_for()
            assert await waiting.is_disabled()
        await exchange.get_by_role("button", name="Try again", exact=True).click()
        await page.locator(".reply", has_text="12+7 = 19").wait_for()


async def test_a_key_is_asked_for_and_stays_out_of_addresses_and_storage(
    browser: Any, engine: Any, spies: dict[ToolName, Any], tmp_path: Path
) -> None:
    secret = "sk-moss-for-this-test"
    keys = ApiKeys([ApiKeyConfig(sha256=key_digest(secret), label="test")])
    addresses: list[str] = []
    async with (
        serving(engine, spies, tmp_path, keys) as service,
        opened(browser, service.url) as page,
    ):
        page.on("request", lambda request: addresses.append(request.url))
        dialog = page.get_by_role("dialog")
        await dialog.get_by_label("API key").fill("wrong")
        await page.keyboard.press("Enter")
        await dialog.get_by_text("did not accept").wait_for()
        await dialog.get_by_label("API key").fill(secret)
        await page.keyboard.press("Enter")
        await dialog.wait_for(state="detached")
        await asked(page, "What is 12+7?")
        assert not [url for url in addresses if secret in url]
        assert secret not in await page.evaluate("JSON.stringify(localStorage) + document.cookie")
        assert secret in await page.evaluate("JSON.stringify(sessionStorage)")


async def test_the_page_speaks_chinese_and_fits_a_phone(browser: Any, service: Service) -> None:
    service.engine.script["moss"] = (
        "法国的首都是巴黎。" + "x" * 200 + "\n\n```\n" + "y" * 200 + "\n```"
    )
    phone = {"width": 360, "height": 740}
    async with opened(browser, service.url, locale="zh-CN", viewport=phone) as page:
        assert "有什么可以帮您" in await page.inner_text(".welcome")
        assert await page.get_attribute("html", "lang") == "zh-Hans"
        exchange = await asked(page, "法国的首都是哪里?")
        assert await exchange.locator(".call").inner_text() == '计算("12+7")'
        assert await page.evaluate("document.documentElement.scrollWidth") <= 360
        assert await page.evaluate("document.querySelector('.conversation').scrollWidth") <= 360
        assert not await page.locator("#sidebar").is_visible()
        await page.get_by_label("回答选项").first.click()
        panel = await page.locator(".panel").bounding_box()
        assert panel["x"] >= 0
        assert panel["x"] + panel["width"] <= 360
        await page.keyboard.press("Escape")
        await page.get_by_label("对话列表").click()
        await page.locator("#sidebar .entry").wait_for()
        await page.keyboard.press("Escape")
        await page.locator("#sidebar").wait_for(state="hidden")


async def test_the_theme_follows_the_system_until_it_is_chosen(page: Any) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    await page.emulate_media(color_scheme="light")
    light = await page.evaluate(ground)
    await page.emulate_media(color_scheme="dark")
    dark = await page.evaluate(ground)
    assert light != dark
    await page.get_by_role("button", name="Settings").click()
    await page.get_by_text("Light", exact=True).click()
    await page.keyboard.press("Escape")
    assert await page.evaluate(ground) == light
    await page.reload()
    assert await page.evaluate(ground) == light


async def test_each_answer_names_its_model_where_several_are_served(
    browser: Any, engine: Any, scripted: Callable[..., Any], spies: dict[ToolName, Any],
    tmp_path: Path,
) -> None:  # fmt: skip
    other = scripted(moss="I am the other one.")
    other.max_positions = engine.max_positions
    routes = [
        route("MOSS-PAT", engine, engine.renderer),
        route("MOSS-SFT", other, engine.renderer, quality=None),
    ]
    models = ModelRouter(routes, alias="moss")
    async with (
        serving(engine, spies, tmp_path, ApiKeys(), models=models) as service,
        opened(browser, service.url) as page,
    ):
        menu = page.get_by_label("Model", exact=True)
        await page.locator(".switches .chip").first.wait_for()
        assert await menu.locator("option").all_inner_texts() == ["moss", "MOSS-PAT", "MOSS-SFT"]
        first = await asked(page, "first")
        assert (await first.locator(".by").inner_text()).split()[-1] == "MOSS-PAT"  # the alias's
        await menu.select_option("MOSS-SFT")
        second = await asked(page, "second")
        assert "the other one" in await second.locator(".reply").inner_text()
        await page.reload()
        await page.locator(".entry .title").first.click()
        await finished(page.locator(".exchange").nth(1))
        named = [text.split()[-1] for text in await page.locator(".by").all_inner_texts()]
        assert named == ["MOSS-PAT", "MOSS-SFT"]
        assert await menu.input_value() == "MOSS-SFT"  # remembered with the conversation


async def test_one_model_is_not_named_at_each_answer(page: Any) -> None:
    exchange = await asked(page, "first")
    assert await exchange.locator(".by").count() == 0


async def violations(page: Any) -> list[str]:
    """What axe-core has against the page as it is, by WCAG 2.2 A and AA, contrast included."""
    found = await page.evaluate(
        """async () => { // colours of what still fades in are neither its own nor its ground's
          const ending = document.getAnimations()
            .filter(one => one.effect.getComputedTiming().endTime !== Infinity);
          await Promise.all(ending.map(one => one.finished.catch(() => null)));
          return (await axe.run(document, {runOnly: ["wcag2a", "wcag2aa", "wcag21a",
            "wcag21aa", "wcag22aa"], resultTypes: ["violations"]})).violations; }"""
    )
    return [
        f"{item['id']}: {node['html'][:120]} {node['failureSummary']}"
        for item in found
        for node in item["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 360])
async def test_axe_finds_no_fault(
    browser: Any, service: Service, spies: dict[ToolName, Any], scheme: str, width: int
) -> None:
    async def search(argument: str) -> ToolOutput:
        source = Reference("Paris", "Capital of France.", "https://en.example.org/paris")
        return ToolOutput(ok=True, layout="references", references=(source,))

    spies["web_search"].call = search
    commands = ' Calculate("12+7"), Search("Paris"), Text2Image("a cat")'
    reply = f" {RICH}\n> quoted<sup><|1|></sup>\n\n- [ ] a task with `code`, [link](https://a.test)"
    service.engine.script |= {"commands": commands, "moss": reply}
    viewport = {"width": width, "height": 800}
    async with opened(browser, service.url, viewport=viewport, color_scheme=scheme) as page:
        await page.locator(".switches .chip").first.wait_for()
        await page.emulate_media(reduced_motion="reduce")  # nothing is half faded in
        await page.evaluate(AXE.read_text(encoding="utf-8"))
        assert await violations(page) == [], "the welcome"
        exchange = await asked(page, "What is 12+7?")
        await exchange.locator(".hl-keyword").first.wait_for()
        for head in await exchange.locator("button.step-head").all():
            await head.click()
        await exchange.get_by_label("Bad answer").click()
        assert await violations(page) == [], "an answer"
        await page.get_by_label("Answer options").first.click()
        assert await violations(page) == [], "the options"
        await page.keyboard.press("Escape")
        if width < 800:
            await page.get_by_role("button", name="Conversations").click()
        await page.locator(".entry").first.hover()
        await page.locator(".entry .menu button").first.click()
        assert await violations(page) == [], "the history with a menu"
        await page.keyboard.press("Escape")
        await page.get_by_role("button", name="Settings").click()
        assert await violations(page) == [], "the settings"
        await page.get_by_role("button", name="Change…").click()
        assert await violations(page) == [], "the consent"


async def test_an_example_uses_its_tool_once(page: Any, spies: dict[ToolName, Any]) -> None:
    await page.get_by_role("button", name="Draw a red fox").click()
    await finished(page.locator(".exchange"))
    assert await page.get_attribute('[data-tool="text_to_image"]', "aria-pressed") == "false"


async def test_a_long_wait_is_counted_and_named(page: Any, service: Service) -> None:
    await page.clock.install()
    service.engine.delay_s = 60
    exchange = await ask(page, "What is 12+7?")
    await exchange.locator(".waiting").wait_for()
    assert await exchange.locator(".waiting").inner_text() == "Thinking"
    await page.clock.fast_forward(31_000)
    await exchange.locator(".waiting", has_text="longer than usual").wait_for()
    await page.keyboard.press("Escape")
    await finished(exchange)
