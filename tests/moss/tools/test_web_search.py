from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from moss.config.tools import SearchConfig, ToolsConfig
from moss.config.web import FetchConfig, ProviderName, WebConfig
from moss.errors import ConfigError
from moss.tools.page_text import extract, read_page
from moss.tools.providers import Hit, build_request, read_hits
from moss.tools.search import build
from moss.tools.web_search import WebSearch
from tests.small_servers import serve_gets

SHAPES: dict[ProviderName, dict[str, Any]] = {
    "google": {"items": [{"title": "T", "link": "http://a.test/", "snippet": "S"}]},
    "searxng": {"results": [{"title": "T", "url": "http://a.test/", "content": "S"}]},
    "brave": {"web": {"results": [{"title": "T", "url": "http://a.test/", "description": "S"}]}},
    "tavily": {"results": [{"title": "T", "url": "http://a.test/", "content": "S"}]},
}
PAGE = """<!doctype html><html><head><title> The  Seine </title><style>p {color: red}</style></head>
<body><nav><a href=/>Home</a></nav><main><h1>The Seine</h1><p>The Seine is a river
in <a href=/fr>France</a>.</p><ul><li><a href=/1>All other rivers</a></li></ul>
<script>track()</script><p>It flows through Paris &amp; Rouen.</p></main>
<footer>Imprint</footer></body></html>"""


def config(provider: ProviderName, endpoint: str | None = None) -> WebConfig:
    return WebConfig(provider=provider, endpoint=endpoint or "http://search.test", engine_id="cx")


@pytest.mark.parametrize("provider", SHAPES)
def test_each_provider_is_asked_and_read_in_its_own_way(provider: ProviderName) -> None:
    request = build_request(config(provider), "the-key", "the query", 3)
    asked = str(request.url) + request.content.decode() + str(dict(request.headers))
    assert "query" in asked
    assert ("the-key" in asked) == (provider != "searxng")
    assert read_hits(provider, SHAPES[provider], 3) == [Hit("T", "http://a.test/", "S")]
    odd_answers: list[object] = [
        {}, [], None, {"results": 1}, {"items": [1, {}]}, {"web": []}
    ]  # fmt: skip
    for odd in odd_answers:
        assert read_hits(provider, odd, 3) == []


async def test_a_key_that_goes_into_a_url_is_in_no_message() -> None:
    tool = WebSearch(SearchConfig(), config("google", "http://127.0.0.1:1"),
                     environment={"MOSS_SEARCH_API_KEY": "the-key"})  # fmt: skip
    output = await tool.call("x")
    assert not output.ok
    assert "ConnectError" in output.reason
    assert "the-key" not in output.reason


async def test_a_page_that_may_not_be_fetched_is_told_by_its_snippet() -> None:
    hits = [{"title": "In", "url": "http://127.0.0.1/", "content": "Inside."},
            {"title": "No", "url": "ftp://a.test/", "content": "Nothing."}]  # fmt: skip
    with serve_gets(lambda path, _: (200, json.dumps({"results": hits}))) as address:
        web = config("searxng", address)
        output = await WebSearch(SearchConfig(), web, environment={}).call("inside")
    assert [(page.title, page.text, page.source) for page in output.references] == [
        ("In", "Inside.", "http://127.0.0.1/")
    ]


@pytest.mark.parametrize(("status", "answer"), [(500, "{}"), (200, "no JSON"), (200, "[" * 90_000)])
async def test_a_provider_that_fails_gives_no_result(status: int, answer: str) -> None:
    with serve_gets(lambda path, _: (status, answer)) as address:
        output = await WebSearch(SearchConfig(), config("searxng", address), environment={}).call(
            "x"
        )
    assert (output.ok, output.body()) == (False, "No result.")


def test_a_provider_without_key_engine_or_endpoint_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="MOSS_SEARCH_API_KEY"):
        WebSearch(SearchConfig(), config("brave"), environment={})
    with pytest.raises(ValueError, match="engine_id"):
        WebConfig(provider="google")
    with pytest.raises(ValueError, match="endpoint"):
        WebConfig(provider="searxng")


def test_the_corpus_is_searched_unless_a_provider_is_named() -> None:
    assert type(build(ToolsConfig())).__name__ == "Search"
    tools = ToolsConfig(web_search=SearchConfig(web=config("searxng")))
    assert type(build(tools)) is WebSearch
    assert tools.call_timeout_s("web_search") > FetchConfig().timeout_s


def test_menus_scripts_and_link_lists_are_left_out_of_a_page() -> None:
    page = read_page(PAGE.encode(), "text/html; charset=utf-8")
    assert page.title == "The Seine"
    assert page.text.split("\n") == [
        "The Seine", "The Seine is a river in France.", "It flows through Paris & Rouen.",
    ]  # fmt: skip
    chinese = "<meta charset=gb18030><p>塞纳河流经巴黎。</p>".encode("gb18030")
    assert read_page(chinese, "text/html").text == "塞纳河流经巴黎。"
    assert read_page(b"plain <b>text</b>", "text/plain").text == "plain <b>text</b>"


async def test_the_locked_down_process_finds_the_same_text(tmp_path: Path) -> None:
    found = await extract(PAGE.encode(), "text/html", timeout_s=20, memory_bytes=512 << 20)
    assert found == read_page(PAGE.encode(), "text/html")
