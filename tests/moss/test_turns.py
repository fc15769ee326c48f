import math
from collections import Counter

import pytest
from scipy import stats

from moss.config.synthesis import SplitConfig, TurnsConfig
from moss.turns import choose_split, choose_weighted, log_parameters, sample_turns


def draw(config: TurnsConfig, count: int = 4000) -> list[int]:
    return [sample_turns(config, seed=1, row_id=str(n)).turns for n in range(count)]


def test_the_default_reads_mu_and_sigma_as_moments_of_the_count() -> None:
    turns = draw(TurnsConfig())
    assert sum(turns) / len(turns) == pytest.approx(3.0, abs=0.1)
    assert Counter(turns)[3] / len(turns) == pytest.approx(0.39, abs=0.03)


def test_moments_match_the_closed_form() -> None:
    mu, sigma = log_parameters(TurnsConfig())
    assert (mu, sigma) == pytest.approx((1.0459, 0.3246), abs=1e-4)
    assert math.exp(mu + sigma**2 / 2) == pytest.approx(3.0)


def test_the_literal_reading_puts_three_quarters_at_the_cap() -> None:
    draws = [sample_turns(TurnsConfig(params="log"), seed=1, row_id=str(n)) for n in range(4000)]
    at_cap = sum(item.turns == 10 for item in draws) / len(draws)
    assert at_cap == pytest.approx(0.773, abs=0.02)
    assert sum(item.is_clipped for item in draws) / len(draws) == pytest.approx(0.75, abs=0.02)


def test_redrawing_follows_the_truncated_distribution() -> None:
    turns = draw(TurnsConfig(params="log", overflow="redraw"))
    probabilities = [
        stats.lognorm.cdf(k + 0.5, 1, scale=math.exp(3))
        - stats.lognorm.cdf(k - 0.5, 1, scale=math.exp(3))
        for k in range(1, 11)
    ]
    expected = [len(turns) * p / sum(probabilities) for p in probabilities]
    observed = [Counter(turns)[k] for k in range(1, 11)]
    assert stats.chisquare(observed, expected).pvalue > 0.001


@pytest.mark.parametrize("overflow", ["clip", "redraw"])
def test_counts_stay_within_bounds(overflow: str) -> None:
    config = TurnsConfig.model_validate({"params": "log", "max_turns": 4, "overflow": overflow})
    assert set(draw(config, 500)) <= {1, 2, 3, 4}


def test_splits_are_disjoint_stable_and_of_the_wanted_size() -> None:
    config = SplitConfig(preference=0.2, eval=0.1)
    splits = [choose_split(config, prompt_id=str(n)) for n in range(5000)]
    assert splits == [choose_split(config, prompt_id=str(n)) for n in range(5000)]
    shares = {name: count / 5000 for name, count in Counter(splits).items()}
    assert shares == pytest.approx({"sft": 0.7, "preference": 0.2, "eval": 0.1}, abs=0.02)


def test_a_wider_preference_split_keeps_what_was_in_it() -> None:
    for n in range(300):
        if choose_split(SplitConfig(preference=0.1), prompt_id=str(n)) == "preference":
            assert choose_split(SplitConfig(preference=0.3), prompt_id=str(n)) == "preference"


def test_weighted_choice_follows_the_weights() -> None:
    names = [choose_weighted({"a": 3, "b": 1}, seed=0, row_id=str(n)) for n in range(4000)]
    assert Counter(names)["a"] / 4000 == pytest.approx(0.75, abs=0.02)
