from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moss.config.synthesis import DedupConfig, SelfInstructConfig
from moss.selfinstruct import Coordinator, Example, Iteration, parse_prompts, render_examples

SEEDS = [Example(f"seed-{n:03d}", f"How does machine number {n} work?") for n in range(20)]


def coordinator(quota: int = 1000, **changes: object) -> Coordinator:
    config = SelfInstructConfig.model_validate({"round_iterations": 30, **changes})
    return Coordinator({"a-en": quota}, {"a-en": SEEDS}, config=config, dedup=DedupConfig(), seed=1)


def answers(iteration: Iteration) -> list[str]:
    """Eight prompts that are new for each iteration."""
    words = "abcdefghijklmnopqrstuvwxyz"
    tag = "".join(words[int(digit)] for digit in f"{iteration.number:06d}")
    return [f"Tell me about {tag * 3}{words[k] * 9}, please {words[k] * 5}" for k in range(8)]


def run(plan: Coordinator) -> list[Iteration]:
    done: list[Iteration] = []
    while planned := plan.plan_round():
        accepted: Counter[str] = Counter({item.bucket: 0 for item in planned})
        for item in planned:
            candidates = plan.collect(item, answers(item))
            accepted[item.bucket] += sum(c.status == "ok" for c in candidates)
            done.append(item)
        plan.end_round(accepted)
    return done


def test_examples_are_numbered_lines() -> None:
    text = render_examples([Example("a", "Who are\nyou?"), Example("b", "Why?")])
    assert text == "[Question 1]: Who are you?\n[Question 2]: Why?"


def test_the_first_fifty_calls_of_a_bucket_show_seeds_only_later_ones_both() -> None:
    done = run(coordinator())
    assert [item.number for item in done] == list(range(1, len(done) + 1))
    for item in done:
        num_seeds = sum(example.id.startswith("seed-") for example in item.examples)
        assert len(item.examples) == 8
        assert num_seeds == (8 if item.number <= 50 else 4)
    assert len(done) > 60


def test_a_restart_plans_the_same_calls() -> None:
    assert run(coordinator()) == run(coordinator())


def test_quotas_are_met_exactly_and_the_rest_is_accounted_for() -> None:
    plan = coordinator(quota=21)
    planned = plan.plan_round()
    candidates = [c for item in planned for c in plan.collect(item, answers(item))]
    counts = Counter(c.status for c in candidates)
    assert counts == {"ok": 21, "skipped": 8 * len(planned) - 21}
    plan.end_round({"a-en": 21})
    assert plan.plan_round() == []
    assert plan.shortfalls() == {}


def test_a_bucket_that_brings_nothing_new_is_given_up_and_reported() -> None:
    plan = coordinator(quota=50)
    for item in plan.plan_round():
        plan.collect(item, [SEEDS[0].text] * 8)
    plan.end_round({"a-en": 0})
    assert plan.plan_round() == []
    assert plan.shortfalls() == {"a-en": 50}


def test_duplicates_name_what_they_repeat() -> None:
    plan = coordinator()
    (first, *_) = plan.plan_round()
    candidates = plan.collect(
        first, ["  how does MACHINE number 3 work?", "Hm?", "What is up now?"]
    )
    assert [c.status for c in candidates] == ["filtered", "filtered", "ok"]
    assert candidates[0].reason == "exact duplicate of seed-003"
    assert candidates[1].reason == "too short"
    assert candidates[2].parents == tuple(example.id for example in first.examples)


@pytest.mark.parametrize(
    "completion",
    [
        " What is one?\n[Question 2]: What is two?\n[Question 3]: What is three?",
        "[Question 1]: What is one?\n\n[Question 2]: What is two?\n\n[Question 3]: What is three?",
        "\n[Question 1] What is one?\n[Question 2]： What is two?\n [Question 3]:What is three?",
        " What is one?\n[Question 2]: What is two?\n\nSure!\n[Question 7]: What is three?\n",
    ],
)
def test_prompts_are_read_from_answers_as_models_write_them(completion: str) -> None:
    prompts = parse_prompts(completion, count=8, is_truncated=False)
    assert prompts == ["What is one?", "What is two?", "What is three?"]


def test_a_cut_off_last_prompt_is_dropped() -> None:
    completion = " What is one?\n[Question 2]: What is tw"
    assert parse_prompts(completion, count=8, is_truncated=True) == ["What is one?"]
    assert parse_prompts(" What is", count=8, is_truncated=True) == []


def test_no_more_prompts_than_asked_for_are_taken() -> None:
    completion = "".join(f"[Question {n}]: number {n}?\n" for n in range(1, 12))
    assert len(parse_prompts(completion, count=8, is_truncated=False)) == 8


@given(st.text(), st.booleans())
def test_any_answer_gives_single_line_prompts_or_none(completion: str, is_truncated: bool) -> None:
    prompts = parse_prompts(completion, count=8, is_truncated=is_truncated)
    assert len(prompts) <= 8
    assert all(prompt and prompt == " ".join(prompt.split()) for prompt in prompts)
