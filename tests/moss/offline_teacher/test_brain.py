from __future__ import annotations

import random
import re

import pytest

from moss.chat import parse_commands
from moss.offline_teacher import MODELS, Answer, answer_chat, answer_completion
from moss.offline_teacher.brain import ChatMessage, count_tokens
from moss.persona import load_persona
from moss.seeds import load_demonstrations, load_red_team, load_seeds
from moss.templates import load_template
from moss.types import LANGUAGES, Language
from moss.world import recognize, sample_question
from moss.world.recognition import language_of_text
from moss.world.toolplans import needed_tool

ITEM = re.compile(r"^\[Question (\d+)\]: (.*)$", re.MULTILINE)
ARITHMETIC: dict[Language, str] = {"en": "What is 37*43+5?", "zh": "37*43+5等于多少？"}
FACT: dict[Language, str] = {"en": "What is the capital of France?", "zh": "法国的首都是什么？"}


def ask(template: str, language: Language, *, model: str = "gpt-3.5-turbo", **slots: object) -> str:
    """The same prompt through both endpoints gets an answer; returns the chat one."""
    prompt = load_template(template, language).render(**slots)
    completed = answer_completion("text-davinci-003", prompt)
    assert completed.text.strip()
    return answer_chat(model, [ChatMessage("user", prompt)]).text


def examples(language: Language, category: str = "helpfulness", start: int = 0) -> str:
    seeds = [s for s in load_seeds() if (s.language, s.category) == (language, category)]
    chosen = random.Random(start).sample(seeds, 8)
    return "\n".join(f"[Question {n}]: {seed.text}" for n, seed in enumerate(chosen, 1))


def prompts_of(answer: Answer) -> list[str]:
    return [text for _, text in ITEM.findall(f"[Question 1]: {answer.text.strip()}")]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("category", ["helpfulness", "honesty"])
def test_extension_gives_eight_prompts_of_the_shown_kinds(
    language: Language, category: str
) -> None:
    template = load_template("extend_prompts", language)
    shown = examples(language, category)
    kinds = {q.kind for _, text in ITEM.findall(shown) if (q := recognize(text))}
    answer = answer_completion("text-davinci-003", template.render(examples=shown, count=8), seed=1)
    prompts = prompts_of(answer)
    assert 7 <= len(prompts) <= 8
    for text in prompts[:-1]:
        question = recognize(text)
        assert question is not None
        assert question.kind in kinds
        assert language_of_text(text) == language


def test_extension_of_harmful_examples_stays_harmless() -> None:
    shown = "\n".join(f"[Question {n}]: {s.text}" for n, s in enumerate(load_red_team()[:8], 1))
    prompt = load_template("extend_prompts", "en").render(examples=shown, count=8)
    for text in prompts_of(answer_completion("text-davinci-003", prompt))[:-1]:
        question = recognize(text)
        assert question is not None
        assert question.kind != "harmful"


@pytest.mark.slow
def test_two_thousand_calls_give_a_wide_variety() -> None:
    distinct: set[str] = set()
    cut = 0
    buckets: list[tuple[Language, str]] = [
        (language, category) for language in LANGUAGES for category in ("helpfulness", "honesty")
    ]
    for number in range(2000):
        language, category = buckets[number % 4]
        template = load_template("extend_prompts", language)
        prompt = template.render(examples=examples(language, category, number), count=8)
        answer = answer_completion("text-davinci-003", prompt, seed=number)
        cut += answer.finish_reason == "length"
        distinct |= set(prompts_of(answer))
    assert len(distinct) > 6000
    assert 150 < cut < 350


@pytest.mark.parametrize("language", LANGUAGES)
def test_one_instruction_rounds_alternate_message_and_reply(language: Language) -> None:
    persona = load_persona("MOSS-paper", language)
    text = load_template("complete_conversation", language).render(
        persona=persona.block(), first_message=ARITHMETIC[language]
    )
    stops = ("[Human]:", "<eor>")
    first = answer_completion("text-davinci-003", text, stop=stops)
    assert first.text.strip().startswith("[MOSS]:")
    assert "1596" in first.text
    text = f"{text}{first.text}<eor>\n[Human]:"
    second = answer_completion("text-davinci-003", text, stop=stops)
    message, reply = second.text.split("<eoh>\n[MOSS]:")
    assert recognize(message.strip()) is not None
    assert reply.strip()


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_persona_of_the_instruction_answers_identity_questions(language: Language) -> None:
    persona = load_persona("MOSS-paper", language)
    system = load_template("assistant_instruction", language).render(persona=persona.block())
    question = {"en": "Who created you?", "zh": "谁创造了你？"}[language]
    messages = [ChatMessage("system", system), ChatMessage("user", question)]
    assert persona.created_by in answer_chat("gpt-3.5-turbo", messages).text


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_simulated_user_follows_up_or_ends(language: Language) -> None:
    system = load_template("user_instruction", language).render(topic="code")
    messages = [
        ChatMessage("system", system),
        ChatMessage("assistant", FACT[language]),
        ChatMessage("user", "ok"),
    ]
    answers = {answer_chat("gpt-3.5-turbo", messages, seed=seed).text for seed in range(200)}
    assert "<end>" in answers
    for text in answers - {"<end>"}:
        question = recognize(text)
        assert question is not None
        assert question.kind == "fact"


@pytest.mark.parametrize("language", LANGUAGES)
def test_tool_queries_need_their_tool(language: Language) -> None:
    for tool, name in (("calculator", "calculator"), ("Search", "web_search")):
        text = ask("tool_queries", language, tool=tool, examples=examples(language), count=8)
        for query in prompts_of(Answer(text, "stop", 0))[:-1]:
            question = recognize(query)
            assert question is not None
            assert needed_tool(question) == name


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("is_on", [True, False])
def test_plans_keep_to_the_switches(language: Language, is_on: bool) -> None:
    shown = "\n\n".join(
        f"Query: {d.query}\nInner thoughts: {d.thoughts}\nCommands: {d.commands}"
        for d in load_demonstrations()[:8]
    )
    state = "enabled" if is_on else "disabled"
    plan = ask(
        "tool_plan",
        language,
        demonstrations=shown,
        switches=f"- Search: enabled\n- Calculate: {state}\n- Solve: disabled",
        history="",
        query=ARITHMETIC[language],
    )
    thoughts, commands = plan.splitlines()
    assert thoughts.startswith("Inner thoughts: ")
    assert language_of_text(thoughts) == language
    expected = ["37*43+5"] if is_on else []
    found = parse_commands(commands.removeprefix("Commands: "))
    assert [command.argument for command in found] == expected


@pytest.mark.parametrize("language", LANGUAGES)
def test_tool_replies_come_from_the_results(language: Language) -> None:
    slots = {"history": "", "query": ARITHMETIC[language], "thoughts": "t"}
    command = 'Calculate("37*43+5")'
    text = ask("tool_reply", language, commands=command, results=f"{command} => '42'", **slots)
    assert "42" in text
    assert "1596" not in text
    direct = ask("tool_reply", language, commands="None", results="None", **slots)
    assert "1596" in direct


@pytest.mark.parametrize("language", LANGUAGES)
def test_tool_follow_ups_need_the_tool_again(language: Language) -> None:
    history = f"[Human]: {ARITHMETIC[language]}\n[MOSS]: 37*43+5 = 1596."
    question = recognize(ask("tool_follow_up", language, history=history))
    assert question is not None
    assert needed_tool(question) == "calculator"


@pytest.mark.parametrize("language", LANGUAGES)
def test_prompts_are_classified_and_rated(language: Language) -> None:
    classes = "Open QA, Code, Math & Reasoning"
    slots = {"classes": classes, "examples": "Prompt: a\nClass: Code"}
    assert ask("classify_use_case", language, prompt=FACT[language], **slots) == "Open QA"
    assert ask("classify_use_case", language, prompt=ARITHMETIC[language], **slots) == (
        "Math & Reasoning"
    )
    outside = {"en": "I am sad about my exam.", "zh": "因为考试，我很难过。"}[language]
    assert ask("classify_use_case", language, prompt=outside, **slots) == "unknown"
    assert ask("rate_difficulty", language, prompt=ARITHMETIC[language]) == "4"
    assert ask("rate_difficulty", language, prompt="What is 2+3?") == "1"


@pytest.mark.parametrize("language", LANGUAGES)
def test_pairs_are_judged_on_the_last_message(language: Language) -> None:
    conversation = f"[Human]: {FACT[language]}\n[MOSS]: ok\n[Human]: {ARITHMETIC[language]}"
    text = ask(
        "judge_pair", language, conversation=conversation, response_a="1.", response_b="1596."
    )
    assert text.endswith("Verdict: B")


def test_answers_depend_on_the_request_only() -> None:
    rng = random.Random(0)
    for model in MODELS:
        text = sample_question(rng, "writing", "en").text
        answers = [answer_chat(model, [ChatMessage("user", text)], seed=3) for _ in range(3)]
        assert answers[0] == answers[1] == answers[2]


def test_choices_and_seeds_are_separate_draws() -> None:
    message = [ChatMessage("user", FACT["en"])]
    by_index = {answer_chat("text-babbage-001", message, index=i).text for i in range(20)}
    by_seed = {answer_chat("text-babbage-001", message, seed=s).text for s in range(20)}
    assert len(by_index) > 2
    assert len(by_seed) > 2


def test_stop_texts_and_token_limits_bound_the_answer() -> None:
    message = [ChatMessage("user", FACT["en"])]
    short = answer_chat("gpt-4", message, max_tokens=3)
    assert (short.num_tokens, short.finish_reason) == (3, "length")
    stopped = answer_chat("gpt-4", message, stop=("Paris",))
    assert "Paris" not in stopped.text
    assert stopped.finish_reason == "stop"


def test_text_outside_the_domain_gets_an_honest_answer() -> None:
    for text in ("Explain photosynthesis.", "解释一下光合作用"):
        reply = answer_chat("gpt-4", [ChatMessage("user", text)]).text
        assert language_of_text(reply) == language_of_text(text)
        assert count_tokens(reply) > 5
