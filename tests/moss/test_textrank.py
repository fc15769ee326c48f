from __future__ import annotations

import math
import random
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moss.textrank import DAMPING, rank_sentences, split_sentences, summarize, words_of

ENGLISH = (
    "Paris is the capital of France. The capital has many museums. Paris and its museums draw "
    "visitors. Bananas are yellow."
)
CHINESE = "巴黎是法国的首都。法国的首都有很多博物馆。巴黎的博物馆很有名。香蕉是黄色的。"


def plain_scores(sentences: list[str]) -> list[float]:
    """TextRank as Mihalcea and Tarau write it, in plain loops."""
    words = [words_of(sentence) for sentence in sentences]
    num = len(sentences)

    def similarity(i: int, j: int) -> float:
        common = len(set(words[i]) & set(words[j]))
        lengths = math.log(max(len(words[i]), 1)) + math.log(max(len(words[j]), 1))
        return common / max(lengths, math.log(2))

    weights = [[similarity(i, j) if i != j else 0.0 for j in range(num)] for i in range(num)]
    scores = [1 / num] * num
    for _ in range(300):
        updated = []
        for i in range(num):
            received = 0.0
            for j in range(num):
                total = sum(weights[j])
                received += scores[j] * (weights[j][i] / total if total else 1 / num)
            updated.append((1 - DAMPING) / num + DAMPING * received)
        scores = updated
    return scores


@pytest.mark.parametrize("text", [ENGLISH, CHINESE])
def test_scores_equal_the_plain_loops(text: str) -> None:
    sentences = split_sentences(text)
    expected = plain_scores(sentences)
    np.testing.assert_allclose(rank_sentences(sentences), expected, atol=1e-5)


def test_sentences_end_where_english_and_chinese_end_them() -> None:
    text = 'Dr. Smith paid $3.50. "Really?" he asked. 好！“真的？”她问。行\nNext line'
    assert split_sentences(text) == [
        "Dr. Smith paid $3.50.", '"Really?" he asked.', "好！", "“真的？”", "她问。", "行",
        "Next line",
    ]  # fmt: skip


@pytest.mark.parametrize("text", [ENGLISH, CHINESE])
def test_a_summary_leaves_out_the_sentence_that_fits_nowhere(text: str) -> None:
    summary = summarize(text, max_sentences=2)
    assert "Bananas" not in summary
    assert "香蕉" not in summary


def test_a_query_pulls_the_summary_towards_it() -> None:
    assert summarize(ENGLISH, max_sentences=1, query="yellow bananas") == "Bananas are yellow."
    assert summarize(CHINESE, max_sentences=1, query="香蕉") == "香蕉是黄色的。"


@settings(max_examples=100, deadline=None)
@given(
    st.text(max_size=300), st.integers(1, 5), st.integers(1, 80), st.none() | st.text(max_size=9)
)
def test_any_text_gives_a_summary_within_its_budget(
    text: str, max_sentences: int, max_chars: int, query: str | None
) -> None:
    summary = summarize(text, max_sentences=max_sentences, max_chars=max_chars, query=query)
    assert len(summary) <= max_chars
    scores = rank_sentences(split_sentences(text), query)
    assert not len(scores) or math.isclose(scores.sum(), 1.0, abs_tol=1e-6)


def test_a_page_of_50_kb_takes_less_than_a_second() -> None:
    draw = random.Random(0)
    words = [f"word{n}" for n in range(2_000)]
    text = " ".join(" ".join(draw.choices(words, k=8)).capitalize() + "." for _ in range(1_000))
    started = time.process_time()
    summarize(text)
    assert time.process_time() - started < 1
