import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moss.config.synthesis import DedupConfig
from moss.dedup import (
    cluster_sizes,
    deduplicate,
    detect_language,
    is_too_short,
    jaccard,
    normalize,
    shingles,
)

CONFIG = DedupConfig()


def test_normal_form_ignores_width_case_and_space() -> None:
    assert normalize(" Ｈello\n WORLD ") == "hello world"


def test_the_smallest_id_wins_whatever_the_order() -> None:
    texts = [("c", "What is the capital of France?"), ("a", "what is the capital of FRANCE?")]
    texts += [("b", "What is the capital of France ?"), ("d", "Write a poem about autumn leaves.")]
    expected = deduplicate(texts, CONFIG)
    assert {v.id: v.kept_id for v in expected} == {"a": "a", "b": "a", "c": "a", "d": "d"}
    for seed in range(5):
        shuffled = random.Random(seed).sample(texts, len(texts))
        assert deduplicate(shuffled, CONFIG) == expected
    assert cluster_sizes(expected) == {"a": 3, "d": 1}


def test_near_duplicates_agree_with_a_plain_jaccard_oracle() -> None:
    rng = random.Random(0)
    words = ["river", "stone", "cloud", "market", "window", "garden", "letter"]
    texts = [(f"{n:03d}", " ".join(rng.choices(words, k=rng.randint(4, 8)))) for n in range(150)]
    kept: list[tuple[str, str]] = []
    for text_id, text in texts:
        grams = shingles(text, CONFIG.ngram)
        if all(jaccard(grams, shingles(other, CONFIG.ngram)) < 0.8 for _, other in kept):
            kept.append((text_id, text))
    found = [verdict.id for verdict in deduplicate(texts, CONFIG) if not verdict.reason]
    # The sketch may miss a pair close to the threshold, never invent one.
    assert set(found) >= {text_id for text_id, _ in kept}
    assert len(found) - len(kept) <= 3


def test_numbers_make_different_questions() -> None:
    verdicts = deduplicate([("a", "What is 37*43+5?"), ("b", "What is 81*12+9?")], CONFIG)
    assert not any(verdict.reason for verdict in verdicts)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("What is the capital of France?", "en"),
        ("法国的首都是哪里？", "zh"),
        ("37*43+5等于多少?", "zh"),
        ("解方程3x+4=19。", "zh"),
        ("Explain the word 你好 to me, please", "en"),
        ("123 456", "en"),
        ("", "en"),
    ],
)
def test_language_is_that_of_the_words(text: str, language: str) -> None:
    assert detect_language(text) == language


@pytest.mark.parametrize(
    ("text", "too_short"),
    [("Hi there", True), ("Who are you?", False), ("你好", True), ("你叫什么？", False)],
)
def test_the_minimum_length_depends_on_the_language(text: str, too_short: bool) -> None:
    assert is_too_short(text, CONFIG) is too_short


@given(st.lists(st.text(max_size=40), max_size=20))
def test_every_text_gets_one_verdict_and_is_kept_by_a_kept_one(texts: list[str]) -> None:
    verdicts = deduplicate([(f"{n:03d}", text) for n, text in enumerate(texts)], CONFIG)
    kept = {verdict.id for verdict in verdicts if not verdict.reason}
    assert [verdict.id for verdict in verdicts] == [f"{n:03d}" for n in range(len(texts))]
    assert all(verdict.kept_id in kept for verdict in verdicts)
    assert sum(cluster_sizes(verdicts).values()) == len(texts)
