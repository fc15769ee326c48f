"""Roles that sit together share a bundle, with GPUs that nobody else has."""

from __future__ import annotations

import pytest

from moss.config.base import parse_config
from moss.config.ppo import TrainPPOConfig
from moss.errors import ConfigError
from moss.run_identity import content_digest

GPUS = {
    "policy": {"num_ranks": 2, "num_cpus": 2, "num_gpus": 0.6},
    "rollout": {"num_ranks": 2, "num_cpus": 1, "num_gpus": 0.4},
    "reference": {"num_gpus": 0.5},
    "critic": {"num_gpus": 1},
}


def config_of(placement: dict[str, object], **others: object) -> TrainPPOConfig:
    data = {"actors": GPUS, "placement": placement} | others
    return parse_config(TrainPPOConfig, data, source="test")


def test_ranks_of_a_group_share_bundles_and_roles_not_named_have_their_own() -> None:
    config = config_of({"groups": [["policy", "rollout", "reference"]]}, actors={
        "policy": {"num_ranks": 2, "num_cpus": 2, "num_gpus": 0.5},
        "rollout": {"num_ranks": 2, "num_cpus": 1, "num_gpus": 0.25},
        "reference": {"num_gpus": 0.25},
    })  # fmt: skip
    bundles = config.placement.bundles(config.started_roles)
    assert {bundle.name: bundle.resources for bundle in bundles} == {
        "policy[0]+rollout[0]+reference[0]": {"CPU": 3.25, "GPU": 1},
        "policy[1]+rollout[1]": {"CPU": 3, "GPU": 1},
        "critic[0]": {"CPU": 0.25},
        "reward[0]": {"CPU": 0.25},
    }


def test_whole_gpus_are_added_and_fractions_share_one() -> None:
    config = config_of({"groups": [["critic", "policy", "rollout"]]})
    first, second, *_ = config.placement.bundles(config.started_roles)
    assert (first.num_gpus, second.num_gpus) == (2, 1)


def test_labels_of_a_role_win_over_those_of_all() -> None:
    config = config_of(
        {
            "groups": [["policy", "rollout"]],
            "label_selector": {"pool": "small", "zone": "a"},
            "role_label_selectors": {"policy": {"pool": "in(large, huge)"}},
        }
    )
    bundles = config.placement.bundles(config.started_roles)
    assert {bundle.name: dict(bundle.labels) for bundle in bundles if "[0]" in bundle.name} == {
        "policy[0]+rollout[0]": {"pool": "in(large, huge)", "zone": "a"},
        "critic[0]": {"pool": "small", "zone": "a"},
        "reference[0]": {"pool": "small", "zone": "a"},
        "reward[0]": {"pool": "small", "zone": "a"},
    }


def test_a_role_that_is_not_started_has_no_bundle() -> None:
    config = config_of(
        {"groups": [["critic"], ["policy", "rollout"]]},
        ppo={"estimator": "rloo", "responses_per_prompt": 4},
    )
    names = [bundle.name for bundle in config.placement.bundles(config.started_roles)]
    assert names == ["policy[0]+rollout[0]", "policy[1]+rollout[1]", "reference[0]", "reward[0]"]


def test_nothing_is_reserved_by_default() -> None:
    config = TrainPPOConfig()
    assert not config.placement.reserves
    assert config.placement.bundles(config.started_roles) == []


def test_a_strategy_alone_reserves_a_bundle_for_each_rank() -> None:
    config = config_of({"strategy": "STRICT_SPREAD"})
    assert [bundle.name for bundle in config.placement.bundles(config.started_roles)] == [
        f"{name}[{rank}]"
        for name, role in config.started_roles.items()
        for rank in range(role.num_ranks)
    ]


def test_where_roles_sit_and_whether_engines_sleep_makes_no_other_run() -> None:
    apart = content_digest(config_of({"groups": [["policy"]]}))
    together: dict[str, object] = {"groups": [["policy", "rollout"]], "strategy": "SPREAD"}
    assert content_digest(config_of(together, rollout={"sleep_level": 2})) == apart
    assert content_digest(config_of(together, rollout={"one_step_off": True})) != apart


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"groups": [["policy", "policy"]]}, "names policy more than once; a role sits in one"),
        ({"groups": [["policy"], ["rollout", "policy"]]}, "names policy more than once"),
        ({"groups": [[]]}, "holds a group without roles"),
        ({"groups": [["polcy"]]}, "polcy|'policy'"),
        (
            {"groups": [["policy", "rollout", "reference"]]},
            r"policy, rollout, reference share a GPU.*add up to 1\.5; lower them to at most 1",
        ),
        (
            {
                "groups": [["policy", "rollout"]],
                "role_label_selectors": {"policy": {"pool": "a"}, "rollout": {"pool": "b"}},
            },
            "sit on one node, but .* asks for pool=a and pool=b; choose one",
        ),
    ],
)
def test_placements_that_cannot_be_are_refused(data: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of(data)


def test_a_bundle_of_nothing_is_refused() -> None:
    actors = {"reward": {"num_cpus": 0}}
    with pytest.raises(ConfigError, match=r"reward\[0\] asks for 0 CPU and 0 GPU, which no"):
        config_of({"groups": [["reward"]]}, actors=actors)


def test_trained_ranks_share_no_gpu_with_each_other() -> None:
    with pytest.raises(ConfigError, match=r"which NCCL refuses; .* or name the role in placement"):
        config_of({})
    assert config_of({"groups": [["policy", "rollout"]]}).actors.policy.num_ranks == 2


@pytest.mark.parametrize(
    ("rollout", "num_gpus", "message"),
    [
        ({"engine": "vllm", "sleep_level": 1}, 0, "vLLM sleeps on GPUs only"),
        ({"engine": "vllm", "sleep_level": 1}, 0.4, None),
        ({"engine": "transformers", "sleep_level": 2}, 0, None),
        ({"one_step_off": True, "sleep_level": 1}, 1, "samples during updates, and with sleep_le"),
    ],
)
def test_engines_sleep_where_they_can(
    rollout: dict[str, object], num_gpus: float, message: str | None
) -> None:
    actors = {"rollout": {"num_gpus": num_gpus}}
    if message is None:
        assert config_of({}, actors=actors, rollout=rollout).rollout.sleep_level
        return
    with pytest.raises(ConfigError, match=message):
        config_of({}, actors=actors, rollout=rollout)
