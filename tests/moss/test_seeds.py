from __future__ import annotations

import json
import random
from collections import Counter

import pytest

from moss.chat import parse_commands
from moss.errors import DataError
from moss.seeds import SEED_COUNTS, load_demonstrations, load_red_team, load_seeds
from moss.types import LANGUAGES, TOOL_NAMES
from moss.world import plan_tools, recognize
from moss.world.recognition import language_of_text

SEED = {"id": "a", "category": "honesty", "language": "en", "text": "Who are you?"}


def test_bundled_seeds_have_the_counts_of_table_3() -> None:
    seeds = load_seeds()
    assert len(seeds) == 188
    assert Counter((seed.category, seed.language) for seed in seeds) == SEED_COUNTS


def test_a_seed_set_with_other_counts_is_refused() -> None:
    with pytest.raises(DataError, match="helpfulness/en has 0, declared 70"):
        load_seeds(json.dumps(SEED))
    assert len(load_seeds(json.dumps(SEED), {("honesty", "en"): 1})) == 1


def test_duplicates_and_malformed_rows_are_refused() -> None:
    twin = {**SEED, "id": "b"}
    with pytest.raises(DataError, match="more than once"):
        load_red_team(f"{json.dumps(SEED)}\n{json.dumps(twin)}")
    with pytest.raises(DataError, match="keys id, category, language, text"):
        load_red_team('{"id": "a"}')
    with pytest.raises(DataError, match="not JSON"):
        load_red_team("{")
    with pytest.raises(DataError, match="not en or zh"):
        load_red_team(json.dumps({**SEED, "language": "fr"}))


def test_every_seed_is_in_the_domain_and_in_its_language() -> None:
    for seed in load_seeds():
        question = recognize(seed.text)
        assert question is not None, seed.text
        assert language_of_text(seed.text) == seed.language
        assert (question.kind == "identity") == (seed.category == "honesty"), seed.text


def test_every_red_team_prompt_is_known_as_harmful() -> None:
    for seed in load_red_team():
        question = recognize(seed.text)
        assert question is not None
        assert question.kind == "harmful", seed.text


def test_demonstrations_cover_all_tools_in_both_languages_and_decline_some() -> None:
    found = load_demonstrations()
    declined = {(item.language, item.tool) for item in found if item.commands == "None"}
    called = {(item.language, item.tool) for item in found if item.commands != "None"}
    every = {(language, tool) for language in LANGUAGES for tool in TOOL_NAMES}
    assert declined == called == every


def test_demonstrated_commands_are_those_the_planner_would_write() -> None:
    for item in load_demonstrations():
        question = recognize(item.query)
        assert question is not None
        _, commands = plan_tools(question, frozenset(TOOL_NAMES), random.Random(0))
        assert commands == parse_commands(item.commands), item.id
