"""Quotas name categories that have seeds; a mistyped one is refused with the one that was meant."""

import pytest

from moss.categories import BUNDLED_CATEGORIES, COLLECTED_CATEGORIES
from moss.config import parse_config
from moss.config.synthesis import SynthesizePromptsConfig
from moss.errors import ConfigError
from moss.reporting.paper_tables import TABLE_3_PROMPTS, TABLE_5
from moss.seeds import load_seeds


def made(quotas: object, seeds: str | None = None) -> SynthesizePromptsConfig:
    data = {"run_id": "p", "quotas": quotas, "seeds": seeds}
    return parse_config(SynthesizePromptsConfig, data, source="test")


def test_categories_are_those_of_the_seeds_and_of_the_papers_tables() -> None:
    assert set(BUNDLED_CATEGORIES) == {seed.category for seed in load_seeds()}
    assert {*BUNDLED_CATEGORIES, "harmlessness"} == set(TABLE_3_PROMPTS)
    assert {*COLLECTED_CATEGORIES, "harmlessness"} == set(TABLE_5)


@pytest.mark.parametrize(
    ("quotas", "seeds", "message"),
    [
        (
            {"helpfulnes": {"en": 10}},
            None,
            r"'helpfulnes'; did you mean 'helpfulness'\?; the bundled seeds have helpfulness, hon",
        ),
        ({"writing": {"en": 10}}, None, "no seed has the category 'writing'; the bundled seeds"),
        (
            {"code": {"en": 1}, "writings": {"zh": 0}},
            "collected",
            r"'writings'; did you mean 'writing'\?; collected and honesty have brainstorming, cod",
        ),
        ({"harmlessness": {"en": 10}}, None, "imported: red_team says how many"),
        ({"honesty": {"fr": 10}}, None, r"quotas\.honesty\.fr: Input should be 'en' or 'zh'"),
    ],
)
def test_a_bucket_that_no_seed_can_fill_is_refused(
    quotas: object, seeds: str | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        made(quotas, seeds)


def test_the_same_category_may_be_known_to_one_source_of_seeds_alone() -> None:
    assert made({"writing": {"en": 1}}, "collected").quotas == {"writing": {"en": 1}}
    assert made({"honesty": {"en": 1}}).quotas == made({"honesty": {"en": 1}}, "c").quotas
