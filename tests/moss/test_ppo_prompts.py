"""PPO's prompts: drawn by seed and iteration alone; the config's refusals say the arithmetic."""

from __future__ import annotations

import pytest

from moss.config.base import parse_config
from moss.config.ppo import PPOConfig, TrainPPOConfig
from moss.errors import ConfigError
from moss.ppo_prompts import PromptSet

PROMPTS = PromptSet(tuple(map(str, range(10))), tuple([row] for row in range(10)), 0, seed=7)


def test_each_pass_takes_every_prompt_once_in_its_own_order() -> None:
    drawn = [request.prompt_ids[0] for i in range(5) for request in PROMPTS.batch(i, 4)]
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10))
    assert drawn[:10] != drawn[10:]


def test_an_iteration_draws_the_same_whenever_it_is_asked() -> None:
    assert PROMPTS.batch(3, 4) == PROMPTS.batch(3, 4)
    seeds = [request.seed for i in range(50) for request in PROMPTS.batch(i, 4)]
    assert len(set(seeds)) == len(seeds)


def test_responses_to_one_prompt_stand_side_by_side_and_differ_in_their_seed() -> None:
    drawn = [r for i in range(5) for r in PROMPTS.batch(i, 2, responses_per_prompt=3)]
    prompts = [request.prompt_ids[0] for request in drawn]
    assert prompts[::3] == prompts[1::3] == prompts[2::3]
    assert sorted(prompts[::3]) == list(range(10))
    assert len({request.seed for request in drawn}) == 30


def test_one_pass_is_the_number_of_whole_batches() -> None:
    assert PROMPTS.num_iterations(4) == 2
    assert PROMPTS.num_iterations(32) == 1


def test_warm_up_is_the_papers_tenth_of_3125_steps() -> None:
    ppo = PPOConfig()
    steps = ppo.num_optimizer_steps(100_000 // ppo.num_rollouts)
    factors = [ppo.warmup_factor(step, steps) for step in range(steps)]
    assert steps == 3125
    assert sum(factor < 1 for factor in factors) == 311
    assert factors[311] == factors[-1] == 1.0
    assert 0 < factors[0] < factors[1]


@pytest.mark.parametrize(
    ("estimator", "uses_critic"),
    [("gae", True), ("grpo", False), ("rloo", False), ("reinforce_pp", False)],
)
def test_a_critic_is_started_only_for_the_estimator_that_asks_it(
    estimator: str, uses_critic: bool
) -> None:
    data = {"ppo": {"estimator": estimator, "responses_per_prompt": 4}}
    config = parse_config(TrainPPOConfig, data, source="test")
    expected = ["rollout", "policy", "critic", "reference", "reward"]
    if not uses_critic:
        expected.remove("critic")
    assert list(config.started_roles) == expected
    assert config.ppo.num_prompts == 8


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"ppo": {"num_rollouts": 32, "num_minibatches": 5}}, r"6\.40 each"),
        ({"actors": {"policy": {"num_ranks": 2, "num_gpus": 0.5}}}, "which NCCL refuses"),
        ({"rollout": {"sampling": {"temperature": 0}}}, "explores nothing"),
        ({"ppo": {"kl_target": 6.0, "kl_coefficient": 0}}, "cannot move kl_coefficient=0"),
        ({"ppo": {"kl_target": 6.0, "kl_horizon": 16}}, "kl_horizon=16 is shorter"),
        ({"ppo": {"num_rollouts": 32, "responses_per_prompt": 5}}, r"6\.40 prompts"),
        ({"ppo": {"estimator": "grpo"}}, "compares responses to one prompt"),
        ({"ppo": {"estimator": "reinforce_pp", "critic_warmup_iterations": 1}}, "has no critic"),
        ({"ppo": {"kl_placement": "loss"}}, "choose k2"),
        ({"ppo": {"clip_rang": 0.2}}, "did you mean 'ppo.clip_range'"),
    ],
)
def test_mistakes_are_refused_with_the_reason(data: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(TrainPPOConfig, data, source="test")
