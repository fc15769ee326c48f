"""The comparison shows every method with its cost, and never a number that nobody recorded."""

import math
import re

import numpy as np
import pytest

from moss import metrics as names
from moss.config.evaluation import CompareConfig
from moss.evaluation.methods import (
    Comparisons,
    Cost,
    Method,
    best_of_n_kl_bound,
    compare_report,
)
from moss.evaluation.quality_control import QualityControl, quality_control
from moss.evaluation.report import Report, Table
from moss.evaluation.report_html import render_html
from moss.evaluation.statistics import Estimate, WinRate, win_rate
from moss.manifest import Manifest

SFT, PAT, PPO, BEST = "MOSS-SFT", "MOSS-PAT", "MOSS-PPO", "best of 4"


def manifest(**metrics: float) -> Manifest:
    return Manifest(
        stage="train_ppo",
        run_id=PPO,
        code_version="x",
        config_digest="y",
        inputs={},
        outputs=(),
        counts={},
        metrics=metrics,
        seconds=90.0,
        created_at="2026-01-01T00:00:00+00:00",
    )


def method(name: str, score: float, cost: Cost | None, *, bound: float | None = None) -> Method:
    return Method(
        name=name,
        score=Estimate(score, score - 0.1, score + 0.1, 50),
        kl_nats=None if bound or name == SFT else Estimate(1.5, 1.0, 2.0, 20),
        kl_bound_nats=bound,
        length_tokens=Estimate(20.0, 19.0, 21.0, 50),
        response_s=0.05,
        cost=cost,
    )


def found(
    *, wins: WinRate = win_rate(60, 10, 30), quality: QualityControl | None = None
) -> Comparisons:
    pairs = [(PAT, SFT), (PPO, SFT), (BEST, SFT), (PAT, PPO)]
    known = Cost(100.0, 190.0, 0.0, 1234.0, 3 * 1024**3, 0.0)
    return Comparisons(
        methods=[
            method(SFT, 1.0, known),
            method(PAT, 1.5, Cost(50.0, None, None, 999.0)),
            method(PPO, 2.0, known),
            method(BEST, 1.7, None, bound=best_of_n_kl_bound(4)),
        ],
        judged=dict.fromkeys(pairs, wins),
        scored=dict.fromkeys(pairs, wins),
        quality=quality or quality_control({0: [-1.0, 0.0], 100: [1.0, 2.0]}, seed=0),
        judge="gpt-4",
        preference_model="preference-model (version abc)",
        stand_in=False,
        notes=("MOSS-PPO: stopped by monitor kl_nats",),
    )


def table(report: Report, title: str) -> Table:
    return next(table for table in report.tables if table.title == title)


def test_the_cost_is_what_the_manifest_says_and_nothing_more() -> None:
    whole = {names.COST_CPU: 200.0, names.COST_GPU: 0.0, names.MEMORY_PEAK: 5.0}
    assert Cost.of(manifest(**whole)) == Cost(90.0, 200.0, 0.0, None, 5.0, None)
    assert Cost.of(manifest()) == Cost(90.0)


def test_what_was_not_recorded_is_a_dash_and_what_trains_nothing_costs_none() -> None:
    rows = {
        row[0]: row[1:]
        for row in table(
            compare_report(found(), CompareConfig()), "Cost of each method's training run"
        ).rows
    }
    assert rows[PPO] == ("100", "190", "0", "1,234", "3.00", "0.00")
    assert rows[PAT] == ("50", "–", "–", "999", "–", "–")
    assert rows[BEST] == ("none", "none", "none", "none", "–", "–")


def test_every_method_stands_with_score_distance_and_length() -> None:
    rows = {
        row[0]: row[1:]
        for row in table(
            compare_report(found(), CompareConfig()), "Score, distance and length"
        ).rows
    }
    assert rows[SFT][2] == "0"
    assert rows[PPO][1:4] == (
        "2.000 [1.900, 2.100]", "1.500 [1.000, 2.000]", "20.000 [19.000, 21.000]",
    )  # fmt: skip
    assert rows[BEST][2] == f"<= {math.log(4) - 0.75:.3f}"


def test_a_method_beats_sft_only_with_its_interval_above_one_half() -> None:
    met = {t.name: t.met for t in compare_report(found(), CompareConfig()).targets}
    assert met == dict.fromkeys(met, True)
    assert len(met) == 3
    close = compare_report(found(wins=win_rate(31, 0, 29)), CompareConfig()).targets
    assert [t.met for t in close] == [True, False, False]


def test_a_score_that_does_not_rise_with_the_tag_falls_short() -> None:
    flat = quality_control({0: [1.0, 2.0], 60: [3.0, 4.0], 100: [0.0, 1.0]}, seed=0)
    first = compare_report(found(quality=flat), CompareConfig()).targets[0]
    assert not first.met


def test_the_page_loads_nothing_and_holds_every_table() -> None:
    report = compare_report(found(), CompareConfig())
    page = render_html(report)
    assert not re.search(r"https?:|//[a-z]|src=|href=|@import|url\(", page)
    for one in report.tables:
        assert one.title.split(":")[0].replace("'", "&#x27;") in page
    assert "stopped by monitor kl_nats" in page
    assert "preference-model (version abc)" in page


@pytest.mark.parametrize("num_samples", [2, 4, 16])
def test_the_bound_holds_for_best_of_n_of_a_known_policy(num_samples: int) -> None:
    """Exact KL of best-of-n over a policy with distinct scores, by its distribution function."""
    chances = np.array([0.5, 0.2, 0.15, 0.1, 0.05])
    up_to = np.cumsum(chances)
    best = up_to**num_samples - np.concatenate([[0], up_to[:-1]]) ** num_samples
    exact = float((best * np.log(best / chances)).sum())
    assert 0 < exact <= best_of_n_kl_bound(num_samples)
