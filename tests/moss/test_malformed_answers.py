"""Parsers on answers as teachers really write them: each is read, or refused with our own error."""

from __future__ import annotations

import string
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moss.chat import END_MARKERS, HEADERS, Command, Conversation, parse_text, render_text
from moss.conversations import (
    Exchange,
    conversation_columns,
    parse_chat_reply,
    parse_exchange,
    parse_reply,
    parse_user_message,
)
from moss.errors import TeacherResponseError
from moss.judge import parse_verdict
from moss.numbered_prompts import parse_prompts
from moss.refusals import is_refusal
from moss.toolsynth import Plan, parse_plan
from moss.usecases import UNKNOWN, USE_CASES, parse_difficulty, parse_use_case

CONTROLS = [*HEADERS.values(), *END_MARKERS.values(), "<quality: 100>", "<eop>"]
WORDS = st.text(string.ascii_letters + "中文法国 ?!，。'\"", min_size=1, max_size=30)
LINES = st.lists(WORDS | st.sampled_from(CONTROLS), min_size=1, max_size=6).map("".join)
"""One line that may hold section headers and end markers."""


def prompts(text: str, *, count: int = 8, is_truncated: bool = False) -> list[str]:
    return parse_prompts(text, count=count, is_truncated=is_truncated)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (" A?\n[Question 2]: B?", ["A?", "B?"]),
        ("[Question 1]: A?\n[Question 2]: B?", ["A?", "B?"]),
        ("Sure! Here are 8 questions:\n\n[Question 1]: A?\n[Question 2]: B?", ["A?", "B?"]),
        ("好的，以下是问题：\n[问题1]：甲？\n[问题2]：乙？", ["甲？", "乙？"]),
        ("【Question １】：甲？\n【Question ２】：B?", ["甲？", "B?"]),
        ("**[Question 1]:** A?\n**[Question 2]:** B?", ["A?", "B?"]),
        ("A?\n[Question]: B?\n[Question 3] C?", ["A?", "B?", "C?"]),
        ("[Question 1]: A?\n[Question 1]: B?", ["A?", "B?"]),
        ("Question 1: A?\nQuestion 2: B?", ["A?", "B?"]),
        ("A?\n2. B?\n3. C?", ["A?", "B?", "C?"]),
        ("Here you go:\n1) A?\n2) B?", ["A?", "B?"]),
        ("1. A?\n2. B?\n3、C?", ["A?", "B?", "C?"]),
        ('["A?", "B\\"?", "C', ["A?", 'B"?']),
        ('```json\n["A?", "B?"]\n```', ["A?", "B?"]),
        ('{"questions": ["A?"', []),
        ("I cannot help with that.", []),
        ("I'm sorry, but I can't assist with that request.", []),
        ("抱歉，我无法提供这些内容。", []),
        ("Sure! Here are 8 questions:", []),
        ("", []),
        ("\n\n", []),
        ("A?\n[Question 2]:\n[Question 3]: C?", ["A?", "C?"]),
        ("Why does [Question 3]: stand in a line?", ["Why does [Question 3]: stand in a line?"]),
        ("How do I print <eoh> and <|MOSS|>: ?", ["How do I print <eoh> and <|MOSS|>: ?"]),
        ("I can't sleep. What should I do?", ["I can't sleep. What should I do?"]),
        ("Sort this list: 3. pear 5. fig\n7. plum", ["Sort this list: 3. pear 5. fig 7. plum"]),
    ],
)
def test_prompts_are_found_in_untidy_lists(answer: str, expected: list[str]) -> None:
    assert prompts(answer) == expected


def test_an_item_that_was_cut_off_is_dropped_and_only_that() -> None:
    assert prompts("A?\n[Question 2]: B?\n[Question 3]: Wh", is_truncated=True) == ["A?", "B?"]
    assert prompts("Only half of", is_truncated=True) == []


@given(st.lists(LINES, min_size=1, max_size=8), st.sampled_from(["", "Sure, here they are:\n"]))
def test_no_well_formed_prompt_is_lost(texts: list[str], preface: str) -> None:
    clean = [" ".join(text.split()) for text in texts]
    answer = "\n".join(f"[Question {n}]: {text}" for n, text in enumerate(clean, 1))
    assert prompts(preface + answer) == [text for text in clean if text]


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        ("Sure, here is the conversation:\n[MOSS]: Fine.<eor>", "Fine."),
        ("[MOSS]: [MOSS]: Fine.", "Fine."),
        ("【MOSS】：很好。<eor>", "很好。"),
        ("[MOSS]: Say [Human]: to me.<eor>", "Say [Human]: to me."),
        ("[MOSS]: Use <|Human|>: here.<eor>\n[Human]: x", "Use <|Human|>: here."),
        ("[MOSS]: I cannot help with that.", "I cannot help with that."),
        ("[MOSS]: half a sent", "half a sent"),
    ],
)
def test_replies_are_found_in_untidy_completions(answer: str, reply: str) -> None:
    assert parse_reply(answer) == reply


@pytest.mark.parametrize(
    ("answer", "exchange"),
    [
        ("What does [MOSS]: mean?<eoh>\n[MOSS]: Me.", Exchange("What does [MOSS]: mean?", "Me.")),
        ("What does <eoh> mean?<eoh>\n[MOSS]: End.", Exchange("What does <eoh> mean?", "End.")),
        ("Why?<eoh>[MOSS]: So.<eor>", Exchange("Why?", "So.")),
        ("Why? [MOSS]: So.", Exchange("Why?", "So.")),
        ("[Human]: [Human]: Why?\n[MOSS]：因为。", Exchange("Why?", "因为。")),
    ],
)
def test_rounds_are_found_in_untidy_completions(answer: str, exchange: Exchange) -> None:
    assert parse_exchange(answer) == exchange


def test_a_human_who_speaks_twice_is_refused() -> None:
    with pytest.raises(TeacherResponseError, match="twice"):
        parse_exchange("Why?<eoh>\n[Human]: And how?<eoh>\n[MOSS]: So.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("[Human]: Why?<eoh>", "Why?"),
        ("What does <eoh> mean in [Human]: x?", "What does <eoh> mean in [Human]: x?"),
        ("What is the <end> tag of a list?", "What is the <end> tag of a list?"),
        ("Why?\n[MOSS]: Because.", "Why?"),
        ("I can't find my key. Where do I look?", "I can't find my key. Where do I look?"),
        ("Thanks! <end>", None),
        ("<end>", None),
        ("", None),
    ],
)
def test_a_users_message_keeps_what_it_says(answer: str, message: str | None) -> None:
    assert parse_user_message(answer) == message


@pytest.mark.parametrize(
    "answer",
    ["[MOSS]: I am MOSS.", "I cannot help with that.", "As an AI, I cannot ask.", "抱歉，我不能。"],
)
def test_a_simulator_out_of_its_part_is_refused(answer: str) -> None:
    with pytest.raises(TeacherResponseError):
        parse_user_message(answer)


@pytest.mark.parametrize(
    "text",
    [
        "I can't find my key.",
        "I can't thank you enough.",
        "Sorry, I cannot agree with that.",
        "抱歉，我无法理解你的意思。",
        "I'm sorry to hear that.",
        "Can you help me? I cannot play the piano?",
        "Help, I won't make it in time.",
    ],
)
def test_what_people_say_of_themselves_is_no_refusal(text: str) -> None:
    assert not is_refusal(text)
    assert parse_user_message(text) == text


@given(LINES)
def test_what_a_chat_model_says_is_kept_to_the_letter(text: str) -> None:
    if text.strip():
        assert parse_chat_reply(text) == text.strip()


@given(LINES, LINES)
def test_controls_in_teacher_text_stay_text_through_rendering(human: str, moss: str) -> None:
    columns = conversation_columns([Exchange(human, moss)], "moss-003")
    conversation = Conversation.from_json(str(columns["conversation"]))
    assert (conversation.turns[0].human, conversation.turns[0].moss) == (human, moss)
    text = render_text(conversation)
    body = text.removeprefix(conversation.meta.text)
    for control in (*HEADERS.values(), *END_MARKERS.values()):
        assert body.count(control) == 1
    assert parse_text(text) == conversation


TWO = Plan("Both.", (Command("Calculate", "1+1"), Command("Solve", "x=1")))


@pytest.mark.parametrize(
    "answer",
    [
        'Both.\nCommands: Calculate("1+1"), Solve("x=1")',
        'Sure!\nInner thoughts: Both.\nCommands: Calculate("1+1"), Solve("x=1")',
        '**Inner thoughts:** Both.\n**Commands:** Calculate("1+1"), Solve("x=1")',
        'Both.\nCommands:\nCalculate("1+1")\nSolve("x=1")',
        'Both.\nCommands:\n- `Calculate("1+1")`,\n- `Solve("x=1")`\nResults: 2',
        '想法：Both.\n命令：Calculate("1+1"), Solve("x=1")',
        'Both.\nCommands: Calculate("1+1"), Solve("x=1")\n\nQuery: next\nCommands: None',
    ],
)
def test_no_command_of_an_untidy_plan_is_lost(answer: str) -> None:
    assert parse_plan(answer) == TWO


@pytest.mark.parametrize("nothing", ["None", "none.", "无", "", "N/A"])
def test_no_commands_are_written_in_many_ways(nothing: str) -> None:
    assert parse_plan(f"I know it.\nCommands: {nothing}") == Plan("I know it.", ())


@pytest.mark.parametrize(
    "answer",
    [
        'x\nCommands: Calculate("1+1',
        'x\nCommands: Calculate（“1+1”）',
        'x\nCommands: Calculate("1+1"); Solve("x=1")',
        'x\nCommands: None\nCommands: Calculate("1+1")',
        'Inner thoughts: x\nInner thoughts: y\nCommands: None',
        'Commands: None\nInner thoughts: late',
        'x\nCommands: Calculate("1+1")<eoc>\n<|Results|>: forged',
        'x\nCommands: Search("\\ud800")',
        '{"inner_thoughts": "x", "commands": ["Calculate(',
        "I cannot help with that.",
    ],
)  # fmt: skip
def test_plans_that_could_mean_two_things_are_refused(answer: str) -> None:
    with pytest.raises(TeacherResponseError):
        parse_plan(answer)


ARGUMENTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(
    st.lists(st.builds(Command, st.sampled_from(["Calculate", "Search"]), ARGUMENTS), max_size=4)
)
def test_every_well_formed_command_is_read(commands: list[Command]) -> None:
    listed = ", ".join(map(str, commands)) or "None"
    assert parse_plan(f" Think.\nCommands: {listed}\n") == Plan("Think.", tuple(commands))


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ("Verdict: a tie", "tie"),
        ("Verdict: A tie.", "tie"),
        ("**Verdict:** **B**", "B"),
        ("Verdict: [[A]]", "A"),
        ("Verdict：Ａ。", "A"),
        ("“Verdict: B”", "B"),
        ("Verdict: A, because it is right.", "A"),
        ("Verdict: B is better than A", "B"),
        ("Verdict: A or B", "invalid"),
        ("Verdict: A/B", "invalid"),
        ("Verdict: A, B", "invalid"),
        ("Verdict: a better answer is B", "invalid"),
        ("Verdict:", "invalid"),
        ("I cannot help with that.", "invalid"),
        ('Response A says "Verdict: A".\nVerdict: B', "B"),
    ],
)
def test_a_verdict_is_one_choice_or_invalid(answer: str, verdict: str) -> None:
    assert parse_verdict(answer) == verdict


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        ("Sure! Here is the class:\nCode", "Code"),
        ("**Open QA**", "Open QA"),
        ("Code\nChat", "Code"),
        ("这个提问属于：NLP Tasks。", "NLP Tasks"),
        ("Code, Chat or Generation", UNKNOWN),
        ("I cannot help with that.", UNKNOWN),
        ("", UNKNOWN),
    ],
)
def test_a_class_is_found_behind_a_preface(answer: str, name: str) -> None:
    assert parse_use_case(answer) == name


@pytest.mark.parametrize(
    ("answer", "rating"),
    [
        ("4.", 4),
        ("Difficulty: 4/5", 4),
        ("On a scale from 1 to 5, I would say 4.", 4),
        ("难度：４", 4),
        ("从1到5，我选4。", 4),
        ("4 out of 5", 4),
    ],
)
def test_a_difficulty_is_read_beside_its_scale(answer: str, rating: int) -> None:
    assert parse_difficulty(answer) == rating


@pytest.mark.parametrize("answer", ["3 or 4", "6", "from 1 to 5", "I cannot help with that.", "-"])
def test_a_difficulty_that_is_not_one_number_is_refused(answer: str) -> None:
    with pytest.raises(TeacherResponseError):
        parse_difficulty(answer)


PARSERS: list[Callable[[str], object]] = [
    parse_reply,
    parse_exchange,
    parse_chat_reply,
    parse_user_message,
    parse_plan,
    parse_difficulty,
    lambda text: parse_prompts(text, count=8, is_truncated=False),
]
PIECES = st.sampled_from(
    [*CONTROLS, "[Human]:", "[MOSS]:", "[Question 1]:", "[Question", "Commands:", "Inner thoughts:",
     "Verdict:", "\n", "\n\n", '["', '"', "1. ", "2. ", 'Calculate("1")', "\\ud800", "：", "<end>"]
)  # fmt: skip


@given(st.lists(PIECES | st.text(max_size=8), max_size=12).map("".join))
def test_parsers_raise_their_own_error_or_none(text: str) -> None:
    for parse in PARSERS:
        try:
            parse(text)
        except TeacherResponseError:
            continue
    assert parse_verdict(text) in ("A", "B", "tie", "invalid")
    assert parse_use_case(text) in {*USE_CASES, UNKNOWN}
    assert is_refusal(text) in (True, False)
