from __future__ import annotations

import pytest

from moss.errors import ConfigError, DataError
from moss.templates import load_template, names, parse_template
from moss.types import LANGUAGES, Language

NAMES = (
    "assistant_instruction",
    "classify_use_case",
    "complete_conversation",
    "extend_prompts",
    "judge_pair",
    "rate_difficulty",
    "repair_answer",
    "tool_follow_up",
    "tool_plan",
    "tool_queries",
    "tool_reply",
    "user_instruction",
)


def test_every_template_exists_in_both_languages_with_the_same_slots() -> None:
    assert names() == NAMES
    for name in NAMES:
        assert load_template(name, "en").slots == load_template(name, "zh").slots


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("language", LANGUAGES)
def test_extract_is_the_inverse_of_render(name: str, language: Language) -> None:
    template = load_template(name, language)
    values = {slot: f"line of {slot}\n{{count}} 50% \\1" for slot in template.slots}
    found = template.extract(template.render(**values))
    assert found == (values, "")


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_prompt_is_recognized_by_its_own_template_only(language: Language) -> None:
    for name in NAMES:
        template = load_template(name, language)
        prompt = template.render(**dict.fromkeys(template.slots, "text"))
        owners = [
            (other, known)
            for other in NAMES
            for known in LANGUAGES
            if load_template(other, known).extract(prompt) is not None
        ]
        assert owners == [(name, language)]


def test_rendering_checks_its_slots() -> None:
    template = load_template("rate_difficulty", "en")
    with pytest.raises(DataError, match="needs the slots prompt; got none"):
        template.render()
    with pytest.raises(DataError, match="got other, prompt"):
        template.render(prompt="a", other="b")


def test_the_few_shot_prompt_is_the_papers() -> None:
    prompt = load_template("extend_prompts", "en").render(examples="[Question 1]: A?", count=8)
    assert prompt == (
        "Come up with a series of questions for a chatbot. Here are some examples:\n"
        "[Question 1]: A?\nNow show me another 8 questions:\n[Question 1]:"
    )


def test_malformed_templates_are_refused() -> None:
    with pytest.raises(ConfigError, match="no template 'absent'"):
        load_template("absent", "en")
    with pytest.raises(DataError, match="does not begin with"):
        parse_template("x", "en", "text {a}\n")
    with pytest.raises(DataError, match="declares the slots a and uses b"):
        parse_template("x", "en", "# version: 1; slots: a\ntext {b}\n")
