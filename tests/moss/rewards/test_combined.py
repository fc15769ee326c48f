"""Rows from rollouts, sums of terms, and when failures end a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from moss.chat_rendering import ChatRenderer
from moss.config.base import parse_config
from moss.config.ppo import TrainPPOConfig
from moss.config.rewards import RewardsConfig
from moss.errors import ConfigError, DataError
from moss.forward import evaluate_scores
from moss.models import PreferenceModel, save_preference_model
from moss.rewards.base import (
    Outcome,
    PromptFacts,
    RewardBatch,
    RewardFailure,
    RewardRow,
    Scores,
    check_failed_fraction,
    join_scores,
    mean_parts,
)
from moss.rewards.combined import CombinedReward, RewardSources, build_rewards
from moss.rollouts import Rollout, RolloutBatch
from moss.tokenizer import MossTokenizer

HERE = "tests.moss.rewards.test_combined"


class Fixed:
    """A reward with outcomes known beforehand."""

    def __init__(self, *outcomes: Outcome) -> None:
        self._outcomes = list(outcomes)
        self.closed = False

    def score(self, batch: RewardBatch) -> list[Outcome]:
        return self._outcomes

    def close(self) -> None:
        self.closed = True


def batch(tokenizer: MossTokenizer, replies: Sequence[str]) -> RewardBatch:
    controls = tokenizer.controls
    rollouts = [
        Rollout(
            prompt_ids=[*tokenizer.encode("Calculate 12+7."), controls["<|MOSS|>:"]],
            response_ids=[*tokenizer.encode(f" {reply}"), controls["<eom>\n"]],
            logprobs=[0.0] * (len(tokenizer.encode(f" {reply}")) + 1),
            policy_version=0,
            finish_reason="stop",
        )
        for reply in replies
    ]
    facts = [PromptFacts(f"p{row}", {"answer": "19"}) for row in range(len(replies))]
    padded = RolloutBatch.from_rollouts(rollouts, pad_id=tokenizer.pad_id)
    return RewardBatch(padded, facts, ChatRenderer(tokenizer))


@pytest.fixture
def tokenizer(tiny_checkpoint: Path) -> MossTokenizer:
    return MossTokenizer.load(tiny_checkpoint)


def last_digit(rows: Sequence[RewardRow]) -> list[float]:
    return [float(item.reply[-1]) for item in rows]


def test_rows_hold_the_texts_that_the_tokens_say(tokenizer: MossTokenizer) -> None:
    first, second = batch(tokenizer, ["19", "It is <eom> 20"]).rows()
    assert (first.id, second.id) == ("p0/0", "p1/1")
    assert first.prompt == "Calculate 12+7.<|MOSS|>:"
    assert first.response == " 19<eom>\n"
    assert (first.reply, second.reply) == ("19", "It is <eom> 20")
    assert tokenizer.decode(second.prompt_ids + second.response_ids) == (
        second.prompt + second.response
    )
    assert first.columns == {"answer": "19"}


def test_a_preference_model_alone_scores_as_its_forward_pass_does(
    tiny_checkpoint: Path, tokenizer: MossTokenizer, tmp_path: Path
) -> None:
    model = PreferenceModel.from_policy(tiny_checkpoint, seed=1)
    save_preference_model(tmp_path, model, tokenizer_folder=None)
    rewards = build_rewards(RewardsConfig(), RewardSources(str(tmp_path), "cpu", max_rows=2))
    rows = batch(tokenizer, ["19", "It is 20, or so", "21"])
    expected = evaluate_scores(model.eval(), rows.rollouts, device=torch.device("cpu"), max_rows=2)
    scores = rewards.score(RewardBatch(rows.rollouts, rows.facts))
    assert np.array_equal(scores.scores_B, expected)
    assert (scores.failures, scores.parts) == ({}, {})


def test_terms_are_summed_by_weight_and_logged_one_by_one(tokenizer: MossTokenizer) -> None:
    config = RewardsConfig.model_validate(
        {
            "terms": [
                {"kind": "function", "function": f"{HERE}:last_digit", "weight": 0.5},
                {"kind": "tool_judge", "name": "exact", "weight": -2},
            ]
        }
    )
    rewards = build_rewards(config, RewardSources("", "cpu", max_rows=2))
    scores = rewards.score(batch(tokenizer, ["It is 19", "It is 18"]))
    assert scores.scores_B.tolist() == [0.5 * 9 - 2 * 1, 0.5 * 8 - 2 * 0]
    assert {name: part.tolist() for name, part in scores.parts.items()} == {
        "function": [9.0, 8.0],
        "exact": [1.0, 0.0],
    }


def test_a_row_that_fails_in_one_term_fails_with_its_name(tokenizer: MossTokenizer) -> None:
    terms = {
        "a": (1.0, Fixed(1.0, RewardFailure("no"), 3.0)),
        "b": (2.0, Fixed(RewardFailure("late"), RewardFailure("lost"), 5.0)),
    }
    scores = CombinedReward(terms).score(batch(tokenizer, ["1", "2", "3"]))
    assert scores.failures == {1: "a: no", 0: "b: late"}
    assert np.isnan(scores.scores_B[:2]).all()
    assert scores.scores_B[2] == 13.0
    assert mean_parts(scores) == {"a": 2.0, "b": 5.0}
    alone = CombinedReward({"b": terms["b"]}).score(batch(tokenizer, ["1", "2", "3"]))
    assert alone.failures == {0: "late", 1: "lost"}


def test_shards_join_to_the_scores_of_the_whole() -> None:
    first, second = np.array([1, np.nan], np.float32), np.array([2, np.nan], np.float32)
    shards = [Scores(first, {1: "x"}, {"a": first}), Scores(second, {1: "y"}, {"a": -second})]
    joined = join_scores(shards, np.array([3, 0, 2, 1]))
    assert joined.failures == {0: "x", 1: "y"}
    np.testing.assert_array_equal(joined.scores_B, [np.nan, np.nan, 2, 1])
    np.testing.assert_array_equal(joined.parts["a"], [np.nan, np.nan, -2, 1])


def test_too_many_failures_end_the_run_with_the_commonest_reason() -> None:
    failures = {0: "down", 1: "nan", 2: "down"}
    check_failed_fraction(failures, 8, most=0.5)
    check_failed_fraction({}, 8, most=0.0)
    with pytest.raises(DataError, match=r"3 of 8 .*max_failed_fraction=0.25; .*\(2 rows\): down"):
        check_failed_fraction(failures, 8, most=0.25)
    with pytest.raises(DataError, match="all 3 rewards"):
        check_failed_fraction(failures, 3, most=1.0)


@pytest.mark.parametrize(
    ("rewards", "said"),
    [
        ({"terms": []}, "terms is empty"),
        ({"terms": [{"kind": "tool_judge"}, {"kind": "tool_judge"}]}, "give each a `name`"),
        ({"terms": [{"kind": "htp"}]}, "'preference_model', 'http', 'function', 'tool_judge'"),
        ({"terms": [{"kind": "http", "url": "host/score"}]}, "starts with http"),
        ({"terms": [{"kind": "function", "function": "score"}]}, "rewards.terms.0.function"),
        ({"terms": [{"kind": "tool_judge", "judged": "commands"}]}, "rollout.tools.max_rounds=1"),
        (
            {"terms": [{"kind": "http", "url": "http://x", "deadline_s": 100},
                       {"kind": "tool_judge", "deadline_s": 30}]},
            "rewards may take 130 s .* timeouts.score_s=120",
        ),
    ],
)  # fmt: skip
def test_rewards_that_cannot_work_are_refused(rewards: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_config(TrainPPOConfig, {"rewards": rewards}, source="test")


def test_roles_and_models_are_those_that_rewards_and_estimator_need() -> None:
    alone = {"terms": [{"kind": "function", "function": "m:f"}]}
    for estimator, rewards, needed in (
        ("gae", None, True),
        ("gae", alone, True),
        ("rloo", None, True),
        ("rloo", alone, False),
    ):
        data: dict[str, object] = {"ppo": {"estimator": estimator, "responses_per_prompt": 2}}
        config = TrainPPOConfig.model_validate(data | ({"rewards": rewards} if rewards else {}))
        assert config.uses_preference_model is needed
