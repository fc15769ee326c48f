"""The viewer of rows: lineage down to seeds, and the page itself in Chromium, opened from disk."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from moss import storage
from moss.chat import Command, Conversation, ToolResult, Turn
from moss.config.teacher import TeacherConfig
from moss.meta_instruction import MetaInstruction
from moss.recipes import Row
from moss.reporting.ancestors import Place
from moss.reporting.viewer import embed, make_viewer
from moss.row_files import write_row_file
from moss.synthesis_rows import schema, shape_rows
from tests.moss.reporting.conftest import Road

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
browser_test = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium (apt-get install chromium)"),
]
HOSTILE = (
    '</script><img src=x onerror="document.title=1"><script>document.title=2</script><!--\u2028'
)


def document_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    document: dict[str, Any] = json.loads(found[1])
    return document


def viewer_of(road: Road, run_id: str) -> dict[str, Any]:
    return document_of((road.workspace / run_id / "rows.html").read_text(encoding="utf-8"))


def origins(document: dict[str, Any], links: list[list[Any]]) -> set[str]:
    """Runs and sources at which the lineage of a row ends."""
    ends: set[str] = set()
    seen: set[int] = set()
    waiting = list(links)
    while waiting:
        row_id, number = waiting.pop()
        assert number is not None, f"{row_id} is not on the page"
        if number in seen:
            continue
        seen.add(number)
        node = document["nodes"][number]
        assert node["id"] == row_id
        waiting += node["lineage"]
        if not node["lineage"]:
            ends.add(f"{node['run']}/{node.get('source')}")
    return ends


def test_every_row_leads_down_to_seeds_and_served_prompts(road: Road) -> None:
    expected = {
        "warmup": {"bundled/seed"},
        "prompts": {"bundled/seed", "collected/simulated"},
        "conversations": {"bundled/seed", "collected/simulated"},
        "preferences": {"bundled/seed", "collected/simulated"},
        "tools": {"bundled/demonstration", "collected/simulated"},
    }
    for run_id, ends in expected.items():
        document = viewer_of(road, run_id)
        found: set[str] = set()
        for row in document["rows"]:
            if row["source" if "source" in row else "id"] == "red_team":
                continue
            assert row["lineage"], row["id"]
            found |= origins(document, row["lineage"])
        assert found == ends, run_id


def test_ancestors_name_model_template_key_and_cost(road: Road) -> None:
    document = viewer_of(road, "conversations")
    prompts = [node for node in document["nodes"] if node["run"] == "prompts"]
    assert prompts
    for node in prompts:
        ((model, template, shared_by, key),) = node["calls"]
        assert (model, template[:15], len(key)) == ("text-davinci-003", "extend_prompts.", 64)
        assert shared_by == 8
        assert float(node["cost_usd"]) > 0


def test_bounds_hold_and_are_named(road: Road) -> None:
    folder = str(road.workspace / "warmup")
    path = storage.join(folder, "data/prompts.parquet")
    page = make_viewer(
        Place(folder, ("data/prompts.parquet",), ()),
        ["prompts"],
        lambda _: iter(storage.read_rows(path)),
        stage="synthesize_prompts",
        notes=(),
        max_rows=5,
        max_ancestors=3,
    )
    document = document_of(page)
    assert len(document["rows"]) == 5
    assert document["num_rows"] == len(storage.read_rows(path))
    assert len(document["nodes"]) == 3


def test_embedded_json_holds_no_markup() -> None:
    text = embed({"x": HOSTILE})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"x": HOSTILE}


def hostile_page(folder: Path) -> Path:
    turn = Turn(
        HOSTILE,
        f"Reply {HOSTILE}<eom>",
        inner_thoughts="I need it.",
        commands=(Command("Calculate", "12+7"),),
        results=(ToolResult(Command("Calculate", "12+7"), "'19'"),),
    )
    meta = MetaInstruction("moss-003", inner_thoughts=True, tools=frozenset({"calculator"}))
    call = {
        "step": "tool_conversation", "call": "plan-1-try-1", "model": "text-davinci-003",
        "template": "tool_plan.en@1", "prompt_tokens": 120, "completion_tokens": 20, "shared_by": 1,
    }  # fmt: skip
    rows: list[Row] = [
        {
            "id": f"tool-{number:03d}{'<b>' if number == 7 else ''}",
            "status": "failed" if number % 10 == 3 else "ok",
            "step": "tool_conversation",
            "reason": HOSTILE if number % 10 == 3 else "",
            "language": "zh" if number % 2 else "en",
            "category": "tool",
            "tool": "calculator",
            "kind": "positive",
            "conversation": Conversation(meta, (turn,)).to_json(),
            "num_turns": 1,
            "model": "text-davinci-003",
            "parents": ["demonstration-en-01", "gone"],
            "calls": [call],
            "ledger_keys": ["ab" * 32],
        }
        for number in range(120)
    ]
    teacher = TeacherConfig.model_validate(
        {"prices": {"text-davinci-003": {"prompt": 20, "completion": 20}}}
    )
    path = str(folder / "data" / "tool_conversations.parquet")
    shaped = shape_rows(rows, "tool_conversations", teacher)
    write_row_file(path, shaped, schema("tool_conversations"))
    page = make_viewer(
        Place(str(folder), ("data/tool_conversations.parquet",), ()),
        ["tool_conversations"],
        lambda _: iter(storage.read_rows(path)),
        stage="synthesize_tool_conversations",
        notes=("a <note>",),
    )
    file = folder / "rows.html"
    file.write_text(page, encoding="utf-8")
    return file


@pytest_asyncio.fixture
async def page(tmp_path: Path) -> AsyncIterator[Any]:
    from playwright.async_api import async_playwright

    file = hostile_page(tmp_path)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        context = await browser.new_context(locale="en-US", viewport={"width": 1300, "height": 800})
        page = await context.new_page()
        problems: list[str] = []
        page.on("console", lambda m: problems.append(m.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        asked: list[str] = []
        page.on("request", lambda r: asked.append(r.url))
        await page.goto(file.as_uri())
        await page.wait_for_selector("button.id")
        yield page
        assert problems == []
        assert {url.partition("#")[0] for url in asked} == {file.as_uri()}
        await browser.close()


async def expect_rows(page: Any, count: int) -> None:
    """Wait for a list of that length; the page's policy forbids conditions given as script."""
    from playwright.async_api import expect

    await expect(page.locator("button.id")).to_have_count(count)


class TestPage:
    pytestmark = browser_test

    async def test_nothing_in_the_data_becomes_markup(self, page: Any) -> None:
        await page.locator("button.id").nth(3).click()
        assert HOSTILE in await page.locator("aside .reason").text_content()
        assert HOSTILE in await page.locator("aside .part.human p").text_content()
        assert await page.locator("img, aside script, main script").count() == 0
        assert "rows" in await page.title()
        assert await page.locator(".note").text_content() == "a <note>"

    async def test_five_sections_switches_cost_and_lineage_are_shown(self, page: Any) -> None:
        await page.locator("button.id").first.click()
        names = await page.locator("aside .part b").all_text_contents()
        assert names == ["Human", "Inner Thoughts", "Commands", "Results", "MOSS"]
        commands = await page.locator("aside .part.commands p").text_content()
        assert commands == 'Calculate("12+7")'
        assert await page.locator("aside .chip.on").all_text_contents() == [
            "inner thoughts on",
            "calculator on",
        ]
        assert "$0.0028" in await page.locator("aside dl.facts").first.inner_text()
        assert "tool_plan.en@1" in await page.locator("aside .calls").inner_text()
        assert "ab" * 32 in await page.locator("aside .calls").inner_text()
        tree = await page.locator("aside .tree").inner_text()
        assert "demonstration-en-01" in tree
        assert "handmade demonstration" in tree
        assert "its row is not on this page" in tree

    async def test_filters_search_and_pages(self, page: Any) -> None:
        assert await page.locator("button.id").count() == 50
        assert "All 120 rows" in await page.locator("#count").text_content()
        await page.get_by_role("button", name="Next page").click()
        await page.get_by_role("button", name="Next page").click()
        assert await page.locator("button.id").count() == 20
        await page.get_by_label("status").select_option("failed")
        await page.get_by_label("language").select_option("zh")
        assert "12 match" in await page.locator("#count").text_content()
        await page.get_by_label("Search").fill("TOOL-013 calculate")
        await expect_rows(page, 1)
        await page.get_by_role("button", name="Clear").click()
        assert "120 match" in await page.locator("#count").text_content()

    async def test_the_keyboard_is_enough(self, page: Any) -> None:
        await page.keyboard.press("/")
        await page.keyboard.type("tool-00")
        await expect_rows(page, 10)
        await page.keyboard.press("Tab")
        await page.evaluate("document.activeElement.blur()")
        await page.keyboard.press("ArrowDown")
        await page.keyboard.press("ArrowDown")
        await page.keyboard.press("Enter")
        assert await page.locator("aside h2").text_content() == "tool-001"
        await page.keyboard.press("ArrowDown")
        assert await page.locator("aside h2").text_content() == "tool-002"
        await page.keyboard.press("Escape")
        assert await page.locator("aside").is_hidden()
        assert await page.evaluate("document.activeElement.textContent") == "tool-002"

    async def test_a_row_has_an_address_and_a_phone_shows_it_whole(self, page: Any) -> None:
        await page.set_viewport_size({"width": 390, "height": 800})
        await page.goto(page.url + "#tool-042")
        await page.reload()
        assert await page.locator("aside h2").text_content() == "tool-042"
        widths = await page.evaluate(
            "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        assert widths[0] <= widths[1]
