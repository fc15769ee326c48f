from __future__ import annotations

import json
from pathlib import Path

import pytest

from moss.config.tools import SearchConfig, ToolsConfig
from moss.errors import ConfigError, DataError
from moss.tools.search import Page, Search, SearchIndex, load_corpus

PAGES = [
    Page("fr", "en", "France", "The capital of France is Paris. It is on the Seine."),
    Page("de", "en", "Germany", "The capital of Germany is Berlin."),
    Page("fr-zh", "zh", "法国", "法国的首都是巴黎。它在塞纳河边。"),
]


def test_the_page_that_answers_comes_first_in_both_languages() -> None:
    index = SearchIndex(PAGES)
    assert index.find("What is the capital of France?", 2)[0].id == "fr"
    assert index.find("法国的首都是哪里？", 1)[0].id == "fr-zh"
    assert {page.id for page in index.find("capital", 5)} == {"de", "fr"}


@pytest.mark.parametrize(
    "query", ["", "the of", "zzz", '"', "OR NOT AND", "title:x*", "' -- ;", "😀"]
)
def test_no_query_breaks_the_index(query: str) -> None:
    assert isinstance(SearchIndex(PAGES).find(query, 3), list)


async def test_results_are_numbered_summaries_within_their_budget() -> None:
    search = Search(SearchConfig(top_k=2, max_sentences=1, max_summary_chars=60))
    output = await search.call("capital of France")
    assert output.ok
    assert len(output.references) == 2
    assert output.references[0].text == "The capital of France is Paris."
    assert all(len(page.text) <= 60 for page in output.references)
    lines = output.body(3).split("\n")
    assert lines[0] == "<|3|>: 'The capital of France is Paris.'"
    assert lines[1].startswith("<|4|>: ")


async def test_nothing_found_reads_no_result() -> None:
    output = await Search(SearchConfig()).call("qqqqq")
    assert (output.ok, output.body()) == (False, "No result.")


def test_the_bundled_corpus_holds_both_languages() -> None:
    assert {page.language for page in load_corpus(None)} == {"en", "zh"}


def test_a_missing_or_broken_corpus_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_corpus(str(tmp_path / "none.jsonl"))
    broken = tmp_path / "broken.jsonl"
    broken.write_text(json.dumps({"id": "1"}) + "\n")
    with pytest.raises(DataError, match="line 1"):
        load_corpus(str(broken))


def test_defaults_are_those_of_the_paper() -> None:
    assert ToolsConfig().web_search.top_k == 3
