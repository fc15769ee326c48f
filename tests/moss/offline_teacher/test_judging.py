from __future__ import annotations

import random
import statistics

import pytest

from moss.offline_teacher.dialogue import reply_to
from moss.offline_teacher.grades import MODELS, seeded
from moss.offline_teacher.judging import RubricScore, judge_pair, score_response
from moss.types import LANGUAGES, Language
from moss.world import KINDS, Kind, compose_reply, sample_question

CAPITAL = "What is the capital of France?"
SIX_MODELS = (
    "text-ada-001",
    "text-babbage-001",
    "text-curie-001",
    "text-davinci-001",
    "text-davinci-003",
    "gpt-3.5-turbo",
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("language", LANGUAGES)
def test_scores_rise_with_the_level_of_the_reply(kind: Kind, language: Language) -> None:
    rng = random.Random(f"{kind}/{language}")
    falls = 0
    for _ in range(60):
        question = sample_question(rng, kind, language)
        totals = [
            score_response(question.text, compose_reply(question, level, rng)).total
            for level in range(6)
        ]
        assert totals[2] < totals[3] < totals[4] < totals[5], (question.text, totals)
        assert totals[0] == 0
        falls += totals[1] >= totals[2]
    assert falls <= 6


def test_mean_score_strictly_rises_over_the_six_models() -> None:
    rng = random.Random(0)
    questions = [
        sample_question(rng, kind, language) for kind in KINDS for language in LANGUAGES
    ] * 4
    means = [
        statistics.mean(
            score_response(
                question.text, reply_to(question.text, model, seeded(model, number))
            ).total
            for number, question in enumerate(questions)
        )
        for model in SIX_MODELS
    ]
    assert means == sorted(means)
    assert len(set(means)) == len(means)
    assert set(SIX_MODELS) < set(MODELS)


@pytest.mark.parametrize(
    ("prompt", "better", "worse"),
    [
        ("What is 37*43+5?", "37*43+5 = 1596.", "37*43+5 = 1591."),
        ("What is 37*43+5?", "1596.", "1596"),
        ("What is 12-37?", "-25.", "25."),
        ("What is 2+3?", "2+3 = 5.", "2+3 = 5 6 7."),
        ("Solve 3x+4=19.", "Solving 3x+4=19 gives x = 5.", "Solving 3x+4=19 gives x = 4."),
        (CAPITAL, "Paris.", "Rome."),
        (CAPITAL, "Rome.", "I do not know."),
        (CAPITAL, "Paris.", "Paris, Rome, Berlin."),
        (CAPITAL, "The capital of France is Paris.", "The capital of France"),
        (CAPITAL, "The capital of France is Paris.", "Paris the of France is capital."),
        (CAPITAL, "Paris.", "法国的首都是巴黎。"),
        ("法国的首都是什么？", "巴黎。", "The capital of France is Paris."),
        ("How can I steal a car?", "I cannot help with that.", "Sure, steal a car at night."),
        ("What is your name?", "MOSS.", "Paris."),
        ("Who made you?", "I was created by FudanNLP Lab.", "I was created by France."),
        (
            "What is 12+7?",
            "12+7 = 19. I hope this helps!",
            "12+7 = 19. I hope this helps! I hope this helps!",
        ),
        ("What is 12+7?", "12+7 = 19. This number is odd.", "12+7 = 19."),
    ],
)  # fmt: skip
def test_the_better_response_wins_in_both_orders(prompt: str, better: str, worse: str) -> None:
    assert judge_pair(prompt, better, worse).endswith("Verdict: A")
    assert judge_pair(prompt, worse, better).endswith("Verdict: B")


def test_equal_totals_go_to_the_first_seat() -> None:
    prompt, first, second = "What is 12+7?", "12+7 = 19.", "The answer to 12+7 is 19."
    assert judge_pair(prompt, first, second).endswith("Verdict: A")
    assert judge_pair(prompt, second, first).endswith("Verdict: A")


def test_orders_agree_unless_the_totals_are_equal() -> None:
    rng = random.Random(1)
    for number in range(300):
        question = sample_question(rng, rng.choice(KINDS), rng.choice(LANGUAGES))
        a, b = (compose_reply(question, rng.randrange(6), rng) for _ in range(2))
        scores = [score_response(question.text, text).total for text in (a, b)]
        swapped = judge_pair(question.text, b, a)[-1]
        agrees = judge_pair(question.text, a, b)[-1] != swapped
        assert agrees == (scores[0] != scores[1]), number


def test_a_wrong_computed_answer_costs_less_than_a_level() -> None:
    wrong = score_response("What is 12+7?", "12+7 = 18. This number is even. I hope this helps!")
    bare = score_response("What is 12+7?", "19.")
    right = score_response("What is 12+7?", "12+7 = 19. This number is odd. I hope this helps!")
    assert bare.total < wrong.total < right.total


@pytest.mark.parametrize("response", ["", "   ", "...", "the the the of of", "的的的是的是是的"])
def test_nothing_and_garble_score_zero(response: str) -> None:
    assert score_response("What is 12+7?", response) == RubricScore()


def test_prompts_outside_the_domain_are_judged_by_form() -> None:
    prompt = "Explain photosynthesis to my class."
    good = "Plants use light to make sugar from water and air. It happens in the leaves. I hope so!"
    assert score_response(prompt, good).total > score_response(prompt, "Plants").total
    assert score_response(prompt, "植物用光。").total == 1


def test_the_verdict_states_the_rubric() -> None:
    lines = judge_pair("What is 12+7?", "19.", "I do not know.").splitlines()
    assert lines == [
        "Response A: legible 1, language 1, topic 2, correct 1, ended 1, sentence 0, detail 0, "
        "courtesy 0; total 6",
        "Response B: legible 1, language 1, topic 0, correct 0, ended 0, sentence 0, detail 0, "
        "courtesy 0; total 2",
        "Verdict: A",
    ]
