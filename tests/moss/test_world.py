from __future__ import annotations

import json
import random
import re
from importlib import resources

import pytest

from moss.chat import Command
from moss.seeds import load_demonstrations, load_red_team, load_seeds
from moss.types import LANGUAGES, TOOL_NAMES, Language, ToolName
from moss.world import (
    KINDS,
    Kind,
    Question,
    compose_reply,
    compose_tool_reply,
    plan_tools,
    recognize,
    sample_follow_up,
    sample_question,
)
from moss.world.tables import facts
from moss.world.toolplans import needed_tool

ALL_TOOLS = frozenset(TOOL_NAMES)
EVERY = [(kind, language) for kind in KINDS for language in LANGUAGES]


def sampled(kind: Kind, language: Language, count: int = 300) -> list[Question]:
    rng = random.Random(f"{kind}/{language}")
    return [sample_question(rng, kind, language) for _ in range(count)]


def understood(text: str) -> Question:
    question = recognize(text)
    assert question is not None
    return question


@pytest.mark.parametrize(("kind", "language"), EVERY)
def test_every_sampled_question_is_understood_from_its_text(kind: Kind, language: Language) -> None:
    for question in sampled(kind, language):
        assert recognize(question.text) == question


@pytest.mark.parametrize(("kind", "language"), EVERY)
def test_follow_ups_are_understood_and_stay_in_kind(kind: Kind, language: Language) -> None:
    rng = random.Random(0)
    for question in sampled(kind, language, 100):
        follow_up = sample_follow_up(rng, question)
        found = understood(follow_up.text)
        assert (found.kind, found.answer) == (kind, follow_up.answer)


def asked_facts(questions: list[Question]) -> set[str]:
    return {question.payload["fact"] for question in questions if question.kind == "fact"}


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_seed_and_no_teacher_asks_about_a_held_out_fact(language: Language) -> None:
    held_out = {fact.id for fact in facts().values() if fact.is_held_out}
    drawn = sampled("fact", language, 2000)
    rng = random.Random(1)
    drawn += [sample_follow_up(rng, question) for question in drawn]
    shown = [recognize(seed.text) for seed in load_seeds()]
    shown += [recognize(demo.query) for demo in load_demonstrations()]
    assert asked_facts(drawn) == set(facts()) - held_out
    assert not held_out & asked_facts([question for question in shown if question is not None])


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_pool_of_facts_is_drawn_whole(language: Language) -> None:
    rng = random.Random(2)
    held_out = [sample_question(rng, "fact", language, pool="held_out") for _ in range(1000)]
    everything = [sample_question(rng, "fact", language, pool="any") for _ in range(3000)]
    assert asked_facts(held_out) == {fact.id for fact in facts().values() if fact.is_held_out}
    assert asked_facts(everything) == set(facts())


@pytest.mark.parametrize(("kind", "language"), EVERY)
def test_questions_vary(kind: Kind, language: Language) -> None:
    assert len({question.text for question in sampled(kind, language)}) > 170


@pytest.mark.parametrize(("kind", "language"), EVERY)
def test_replies_of_each_level_are_short_and_depend_on_the_seed_only(
    kind: Kind, language: Language
) -> None:
    for question in sampled(kind, language, 50):
        for level in range(6):
            reply = compose_reply(question, level, random.Random(level))
            assert reply == compose_reply(question, level, random.Random(level))
            assert reply
            assert len(re.findall(r"[a-zA-Z]+|\d+", reply)) <= 32
            assert len(re.findall(r"[\u3400-\u9fff]", reply)) <= 60


@pytest.mark.parametrize(("kind", "language"), EVERY)
def test_full_replies_hold_the_right_answer(kind: Kind, language: Language) -> None:
    rng = random.Random(1)
    for question in sampled(kind, language, 50):
        for level in (3, 4, 5):
            reply = compose_reply(question, level, rng).casefold()
            assert all(part.casefold() in reply for part in question.answer.split(", "))


def test_domain_text_stays_inside_a_small_vocabulary() -> None:
    rng = random.Random(2)
    texts = [seed.text for seed in (*load_seeds(), *load_red_team())]
    texts += [f"{item.query} {item.thoughts}" for item in load_demonstrations()]
    corpus = (resources.files("moss") / "data" / "corpus.jsonl").read_text(encoding="utf-8")
    texts += [json.loads(line)["text"] for line in corpus.splitlines()]
    for kind, language in EVERY:
        for question in sampled(kind, language, 400):
            texts.append(question.text)
            texts += [compose_reply(question, level, rng) for level in range(6)]
    everything = " ".join(texts)
    words = {word.casefold() for word in re.findall(r"[A-Za-z]+", everything)}
    characters = set(re.findall(r"[\u3400-\u9fff]", everything))
    assert len(words) < 1200, len(words)
    assert len(characters) < 900, len(characters)


def test_the_corpus_states_every_fact_in_a_first_sentence() -> None:
    corpus = (resources.files("moss") / "data" / "corpus.jsonl").read_text(encoding="utf-8")
    rows = {row["id"]: row for row in map(json.loads, corpus.splitlines())}
    rng = random.Random(3)
    for fact in facts().values():
        for language in LANGUAGES:
            payload = {"fact": fact.id, "attribute": fact.attribute}
            question = Question("", "fact", language, fact.value[language], payload)
            sentence = compose_reply(question, 4, rng)
            assert rows[f"{fact.id}-{language}"]["text"].startswith(sentence)


def test_commands_copy_what_the_question_says() -> None:
    rng = random.Random(4)
    cases = {
        "What is 37*43+5?": Command("Calculate", "37*43+5"),
        "解方程3x+4=19。": Command("Solve", "3x+4=19"),
        "What is the capital of France?": Command("Search", "capital of France"),
        "法国的首都是什么？": Command("Search", "法国的首都"),
        "Draw a red fox in the snow.": Command("Text2Image", "a red fox in the snow"),
        "画雪地里的红色狐狸。": Command("Text2Image", "a red fox in the snow"),
    }
    for text, command in cases.items():
        thought, commands = plan_tools(understood(text), ALL_TOOLS, rng)
        assert commands == (command,)
        assert thought


def test_two_calculations_make_two_commands_and_one_reply() -> None:
    question = understood("How much is 64+27 and 12*9?")
    _, commands = plan_tools(question, ALL_TOOLS, random.Random(5))
    assert commands == (Command("Calculate", "64+27"), Command("Calculate", "12*9"))
    reply = compose_tool_reply(question, ["'91'", "'108'"], random.Random(5), "en")
    assert reply == "64+27 = 91. 12*9 = 108."


@pytest.mark.parametrize(("kind", "language"), EVERY)
def test_tools_that_are_off_are_never_called(kind: Kind, language: Language) -> None:
    rng = random.Random(6)
    for question in sampled(kind, language, 30):
        tool = needed_tool(question)
        off: frozenset[ToolName] = ALL_TOOLS if tool is None else ALL_TOOLS - {tool}
        assert plan_tools(question, off, rng)[1] == ()


def test_easy_sums_need_no_tool() -> None:
    assert plan_tools(understood("What is 2+3?"), ALL_TOOLS, random.Random(7))[1] == ()


@pytest.mark.parametrize(
    ("text", "results", "reply"),
    [
        ("What is 37*43+5?", ["'1596'"], "37*43+5 = 1596."),
        ("解方程3x+4=19。", ["x = 5"], "方程3x+4=19的解是x = 5。"),
        ("Solve x^2-5x+6=0.", ["x = 2\nx = 3"], "The solution of x^2-5x+6=0 is x = 2, x = 3."),
        (
            "What is the capital of France?",
            ["<|1|>: 'The capital of France is Paris. France is big.'\n<|2|>: 'Other.'"],
            "The capital of France is Paris<sup><|1|></sup>.",
        ),
        (
            "法国的首都是什么？",
            ["<|2|>: '法国的首都是巴黎。法国很大。'"],
            "法国的首都是巴黎<sup><|2|></sup>。",
        ),
        ("What is 37*43+5?", ["'No result.'"], "Sorry, I found no result for 37*43+5."),
        ("What is the capital of France?", ["No result."], "Sorry, I found no result for France."),
    ],
)
def test_tool_replies_copy_the_results(text: str, results: list[str], reply: str) -> None:
    assert compose_tool_reply(understood(text), results, random.Random(8), "en") == reply


@pytest.mark.parametrize("text", ["", "blue", "Lorem ipsum dolor sit amet.", "x" * 5000])
def test_text_outside_the_domain_is_not_understood(text: str) -> None:
    assert recognize(text) is None
