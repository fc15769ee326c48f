"""Evaluation prompts are new: no training set holds them, none occurs twice."""

import pytest

from moss.chat import Conversation, Turn
from moss.config.evaluation import ToolEvaluationConfig
from moss.errors import DataError
from moss.evaluation.prompts import (
    fingerprint,
    fresh_tool_queries,
    held_out_histories,
    training_fingerprints,
)
from moss.meta_instruction import MetaInstruction
from moss.recipes import Row
from moss.world.toolplans import needed_tool


def row(number: int, split: str, *messages: str) -> Row:
    turns = tuple(Turn(human=text, moss="Fine.", quality=None) for text in messages)
    return {
        "id": f"conversation-{number}",
        "prompt_id": f"prompt-{number}",
        "language": "en",
        "split": split,
        "conversation": Conversation(MetaInstruction("tiny"), turns).to_json(),
    }


def test_a_prompt_that_any_training_turn_holds_is_left_out_and_counted() -> None:
    rows = [
        row(1, "sft", "Hello there.", "What is 1+1?"),
        row(2, "preference", "Tell me a joke."),
        row(3, "eval", "what  is 1+1?"),
        row(4, "eval", "Tell me a story."),
    ]
    trained = training_fingerprints(rows)
    held_out = held_out_histories(rows, trained, num_prompts=10, seed=1)
    assert list(held_out.histories) == ["prompt-4"]
    assert held_out.num_leaked == 1
    assert held_out.histories["prompt-4"].turns[-1].moss == ""
    assert not trained & {fingerprint(h.turns[-1].human) for h in held_out.histories.values()}


def test_the_draw_is_the_same_for_any_order_of_rows() -> None:
    rows = [row(number, "eval", f"Prompt number {number}.") for number in range(30)]
    first = held_out_histories(rows, set(), num_prompts=10, seed=7)
    second = held_out_histories(rows[::-1], set(), num_prompts=10, seed=7)
    assert list(first.histories) == list(second.histories)
    assert len(first.histories) == 10


def test_an_empty_eval_split_says_what_to_raise() -> None:
    with pytest.raises(DataError, match=r"raise splits\.eval"):
        held_out_histories([row(1, "sft", "Hi.")], set(), num_prompts=5, seed=0)


def test_fresh_queries_need_their_tool_and_are_new_and_distinct() -> None:
    config = ToolEvaluationConfig(num_queries=40)
    first = fresh_tool_queries(config, set(), seed=3)
    trained = {fingerprint(query.question.text) for query in first[::2]}
    second = fresh_tool_queries(config, trained, seed=3)
    texts = [fingerprint(query.question.text) for query in second]
    assert len(texts) == len(set(texts)) == 120
    assert not trained.intersection(texts)
    assert all(needed_tool(query.question) == query.tool for query in second)


def test_both_arms_differ_in_the_measured_switch_alone() -> None:
    for query in fresh_tool_queries(ToolEvaluationConfig(num_queries=20), set(), seed=0):
        on, off = query.meta("tiny", is_on=True), query.meta("tiny", is_on=False)
        assert on.tools - off.tools == {query.tool}
        assert query.tool not in off.tools
