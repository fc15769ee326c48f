from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moss.categories import DOMAINS
from moss.config.synthesis import SamplingConfig
from moss.errors import TeacherResponseError
from moss.recipes import Row
from moss.types import LANGUAGES
from moss.usecases import (
    EXAMPLES,
    UNKNOWN,
    USE_CASES,
    ClassifyPrompt,
    SeedCandidate,
    allocate,
    example_of,
    parse_difficulty,
    parse_use_case,
    select_seeds,
)
from tests.moss.recipe_runner import run_recipe


def test_the_classes_are_those_of_table_4() -> None:
    assert sum(USE_CASES.values()) == pytest.approx(100.0)
    assert set(EXAMPLES) == set(DOMAINS) == set(USE_CASES)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (" Open QA", "Open QA"),
        ("Class: Math & Reasoning.", "Math & Reasoning"),
        ("role-playing\nBecause it asks to act.", "Role-playing"),
        ("ROLE PLAYING", "Role-playing"),
        ("Code or Chat", UNKNOWN),
        ("Decode", UNKNOWN),
        ("", UNKNOWN),
        ("something else", UNKNOWN),
    ],
)
def test_an_answer_is_one_class_or_unknown(text: str, name: str) -> None:
    assert parse_use_case(text) == name


@given(st.text())
def test_any_answer_is_a_class_or_unknown(text: str) -> None:
    assert parse_use_case(text) in {*USE_CASES, UNKNOWN}


@pytest.mark.parametrize(("text", "rating"), [("3", 3), ("Difficulty: 5/5", 5), (" 1\n", 1)])
def test_difficulty_is_a_digit(text: str, rating: int) -> None:
    assert parse_difficulty(text) == rating


@pytest.mark.parametrize("text", ["", "hard", "10", "3.5", "0"])
def test_other_difficulties_are_refused(text: str) -> None:
    with pytest.raises(TeacherResponseError, match="difficulty"):
        parse_difficulty(text)


def test_the_few_shot_prompt_shows_every_class_in_the_users_language() -> None:
    recipe = ClassifyPrompt("m", "m", SamplingConfig())
    for language in LANGUAGES:
        row, bodies = run_recipe(
            recipe,
            {"id": "r", "language": language, "text": "What?"},
            lambda body: "Code" if "Python" in str(body) else "4",
        )
        assert (row["use_case"], row["difficulty"]) == ("Code", 4)
        shown = str(bodies[0]["messages"])
        for name in USE_CASES:
            assert f"Class: {name}" in shown
            assert example_of(name, language) in shown


def test_the_frequent_head_and_the_hard_tail_are_both_selected() -> None:
    easy = [SeedCandidate(f"easy-{n:03d}", "Chat", 1, 1) for n in range(200)]
    head = SeedCandidate("head", "Chat", 40, 1)
    tail = SeedCandidate("tail", "Chat", 1, 5)
    chosen = select_seeds([*easy, head, tail], 10, seed=0)
    assert {"head", "tail"} <= {seed.id for seed in chosen}
    assert chosen == select_seeds([tail, *easy[::-1], head], 10, seed=0)


def test_selection_keeps_the_shares_of_the_classes_and_leaves_unknown_out() -> None:
    candidates = [
        SeedCandidate(f"{name}-{n:03d}", name, 1, 1)
        for name, count in (("Chat", 60), ("Code", 30), (UNKNOWN, 50), ("Open QA", 10))
        for n in range(count)
    ]
    chosen = Counter(seed.use_case for seed in select_seeds(candidates, 20, seed=0))
    assert chosen == {"Chat": 12, "Code": 6, "Open QA": 2}


@given(
    st.integers(0, 500),
    st.dictionaries(st.text(min_size=1, max_size=3), st.floats(0.1, 100), min_size=1),
)
def test_shares_add_up_and_are_off_by_less_than_one(total: int, weights: dict[str, float]) -> None:
    shares = allocate(total, weights)
    assert sum(shares.values()) == total
    for name, share in shares.items():
        assert abs(share - total * weights[name] / sum(weights.values())) < 1 + 1e-6


@pytest.mark.parametrize(("second", "use_case"), [("Code", "Code"), ("Hmm again.", UNKNOWN)])
def test_an_answer_without_a_class_is_repaired_once(second: str, use_case: str) -> None:
    answers = iter(["Hmm.", second, "3"])
    row: Row = {"id": "r", "language": "en", "text": "Sing.", "status": "ok"}
    recipe = ClassifyPrompt("c", "d", SamplingConfig())
    classified, bodies = run_recipe(recipe, row, lambda _: next(answers))
    assert (classified["use_case"], classified["difficulty"]) == (use_case, 3)
    assert len(bodies) == 3
