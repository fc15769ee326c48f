"""Rows that stages start from, made one by one, are those a list in memory would give."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from moss.chat import Conversation, Turn
from moss.config.labelling import LabelPreferencesConfig
from moss.config.synthesis import (
    SynthesizeConversationsConfig,
    SynthesizeToolConversationsConfig,
)
from moss.errors import DataError
from moss.meta_instruction import MetaInstruction
from moss.recipes import Row, stable_unit
from moss.responding import history_rows
from moss.synthesis_plan import ConversationPlan, negative_rows, negatives_wanted

PROMPTS: list[Row] = [
    {"id": f"p-{n:03d}", "text": f"What is {n}?", "language": "en", "category": "code"}
    for n in range(40)
]
LABEL = LabelPreferencesConfig(run_id="l", conversations="c", checkpoint="MOSS-SFT", num_prompts=7)
TOOLS = SynthesizeToolConversationsConfig(run_id="t", conversations="c", quotas={})


def conversations(*splits: str) -> list[Row]:
    turns = (Turn(human="Who?", moss="I am MOSS."), Turn(human="Why?", moss="Because."))
    text = Conversation(MetaInstruction("tiny"), turns).to_json()
    return [
        {
            "id": f"conversation-{n:03d}",
            "prompt_id": f"{n:03d}",
            "split": split,
            "language": "en",
            "category": "code",
            "conversation": text,
            "num_turns": 2,
            "grade_model": "m",
        }
        for n, split in enumerate(splits)
    ]


def smallest(rows: list[Row], count: int, name: str, seed: int) -> list[str]:
    by_lot = sorted(rows, key=lambda row: stable_unit(seed, name, row["id"]))
    return sorted(str(row["id"]) for row in by_lot[:count])


@pytest.mark.parametrize("max_prompts", [None, 1, 13, 40, 50])
def test_a_conversation_is_planned_for_each_drawn_prompt(max_prompts: int | None) -> None:
    config = SynthesizeConversationsConfig(run_id="c", prompts="p", max_prompts=max_prompts)
    plan = ConversationPlan(config, PROMPTS, "m")
    rows = list(plan)
    assert plan.num_rows == len(rows) == min(40, max_prompts or 40)
    expected = smallest(PROMPTS, max_prompts or 40, "subset", config.seed)
    assert [row["prompt_id"] for row in rows] == expected
    assert {row["model"] for row in rows} == {"m"}


def test_a_plan_reads_its_prompts_as_it_goes() -> None:
    taken = []

    def prompts() -> Iterator[Row]:
        for prompt in PROMPTS:
            taken.append(prompt["id"])
            yield prompt

    config = SynthesizeConversationsConfig(run_id="c", prompts="p")
    next(iter(ConversationPlan(config, prompts(), "m")))
    assert len(taken) == 1


def test_histories_are_drawn_from_the_preference_split_alone() -> None:
    rows = conversations(*("preference" if n % 3 else "sft" for n in range(30)))
    offered = [row for row in rows if row["split"] == "preference"]
    found = list(history_rows(LABEL, rows))
    assert [row["parents"] for row in found] == [
        [row_id] for row_id in smallest(offered, 7, "history", LABEL.seed)
    ]
    last = Conversation.from_json(str(found[0]["conversation"])).turns[-1]
    assert (last.human, last.moss) == ("Why?", "")


def test_no_preference_split_is_an_error_that_says_what_to_raise() -> None:
    with pytest.raises(DataError, match=r"splits\.preference"):
        list(history_rows(LABEL, conversations("sft", "eval")))


@pytest.mark.parametrize("num_tool_rows", [0, 27, 900])
def test_negatives_are_their_share_of_the_whole_set_or_all_there_are(num_tool_rows: int) -> None:
    rows = conversations(*("sft" if n % 2 else "eval" for n in range(20)))
    wanted = negatives_wanted(TOOLS, num_tool_rows=num_tool_rows)
    found = list(negative_rows(TOOLS, rows, wanted))
    assert len(found) == min(wanted, 10) == {0: 0, 27: 3, 900: 10}[num_tool_rows]
    offered = [row for row in rows if row["split"] == "sft"]
    expected = smallest(offered, wanted, "negative", TOOLS.seed)
    assert [row["parents"] for row in found] == [[row_id] for row_id in expected]
