import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moss.chat import Conversation, Turn
from moss.config.synthesis import SamplingConfig
from moss.errors import DataError
from moss.judge import (
    JudgePair,
    Verdict,
    combine,
    make_pairs,
    parse_verdict,
    render_history,
    render_judgment,
)
from moss.meta_instruction import MetaInstruction
from moss.recipes import Row
from tests.moss.recipe_runner import run_recipe

CONVERSATION = Conversation(
    MetaInstruction("tiny"), (Turn("Hi.", "Hello."), Turn("What is 1+1?", ""))
)
PAIR: Row = {
    "id": "p",
    "language": "en",
    "conversation": CONVERSATION.to_json(),
    "model_a": "x",
    "model_b": "y",
    "response_a": "It is 2.",
    "response_b": "No idea.",
}
RECIPE = JudgePair("gpt-4", SamplingConfig(max_tokens=32))


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("A: 5\nB: 3\nVerdict: A", "A"),
        ("**Verdict**: B.", "B"),
        ("Verdict: [tie]", "tie"),
        ("verdict： Response B", "B"),
        ("Verdict: A\nOn reflection...\nVerdict: B", "B"),
        ("I prefer A", "invalid"),
        ("Verdict: Both are good", "invalid"),
        ("Verdict: Absolutely A", "invalid"),
        ("", "invalid"),
    ],
)
def test_verdicts_are_read_as_judges_write_them(text: str, verdict: str) -> None:
    assert parse_verdict(text) == verdict


@given(st.text())
def test_any_text_is_a_verdict_or_invalid(text: str) -> None:
    assert parse_verdict(text) in ("A", "B", "tie", "invalid")


def test_labels_agree_with_a_table() -> None:
    verdicts: tuple[Verdict, ...] = ("A", "B", "tie", "invalid")
    for first, swapped in itertools.product(verdicts, verdicts):
        if "invalid" in (first, swapped):
            expected = "invalid"
        elif (first, swapped) == ("A", "B"):
            expected = "a"
        elif (first, swapped) == ("B", "A"):
            expected = "b"
        else:
            expected = "tie"
        assert combine(first, swapped) == expected


def test_six_models_make_fifteen_pairs_and_no_model_meets_itself() -> None:
    pairs = make_pairs(list("abcdef"))
    assert len({frozenset(pair) for pair in pairs}) == 15
    with pytest.raises(DataError, match="distinct models"):
        make_pairs(["a", "b", "a"])


def test_both_orders_are_asked_with_seats_exchanged() -> None:
    def respond(body: dict[str, object]) -> str:
        text = str(body["messages"])
        return f"Verdict: {'A' if text.index('It is 2.') < text.index('No idea.') else 'B'}"

    row, bodies = run_recipe(RECIPE, PAIR, respond)
    assert (row["label"], row["verdict_ab"], row["verdict_ba"]) == ("a", "A", "B")
    assert len(bodies) == 2
    assert row["status"] == "ok"


def test_a_judge_that_loves_a_seat_gives_a_tie() -> None:
    row, _ = run_recipe(RECIPE, PAIR, lambda _: "Verdict: A")
    assert row["label"] == "tie"


def test_an_unreadable_verdict_makes_the_pair_invalid_and_failed() -> None:
    row, _ = run_recipe(RECIPE, PAIR, lambda _: "Both are fine.")
    assert (row["label"], row["status"]) == ("invalid", "failed")


def test_identical_responses_cost_nothing() -> None:
    row, bodies = run_recipe(RECIPE, {**PAIR, "response_b": " It is 2. "}, lambda _: "Verdict: A")
    assert (row["label"], row["status"], bodies) == ("tie", "skipped", [])


def test_pairs_of_one_model_are_refused() -> None:
    row, bodies = run_recipe(RECIPE, {**PAIR, "model_b": "x"}, lambda _: "Verdict: A")
    assert row["status"] == "failed"
    assert "pairs need two models" in str(row["reason"])
    assert bodies == []


def test_the_judge_reads_the_history_without_the_last_reply() -> None:
    history = render_history(CONVERSATION)
    assert history == "[Human]: Hi.\n[MOSS]: Hello.\n[Human]: What is 1+1?"
    prompt = render_judgment(history, "first reply", "second reply", "en")
    assert prompt.index("What is 1+1?") < prompt.index("first reply") < prompt.index("second reply")
