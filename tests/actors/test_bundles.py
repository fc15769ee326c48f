"""Bundles are reserved for a run's roles, kept for restarted actors, given back; or named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from actors.bundles import NodeRoom, missing_bundles, reserved_bundles
from actors.group import ActorGroup
from moss.config.placement import PlacementConfig
from moss.config.ppo_actors import ActorConfig
from moss.errors import ConfigError, ResourceError
from tests.clusters import ROOT, clean_environment

LARGE = NodeRoom("large", {"CPU": 1.0, "GPU": 2.0}, {"CPU": 8.0, "GPU": 2.0}, {"pool": "a"})
SMALL = NodeRoom("small", {"CPU": 2.0}, {"CPU": 2.0}, {"pool": "b", "ray.io/node-id": "0"})


def missing(placement: dict[str, object], **roles: ActorConfig) -> str:
    config = PlacementConfig.model_validate({"groups": [[role] for role in roles]} | placement)
    return missing_bundles(config.bundles(roles), [LARGE, SMALL], config.strategy)


def test_bundles_without_a_node_are_named_with_the_reason_and_what_is_free() -> None:
    found = missing(
        {"role_label_selectors": {"reward": {"pool": "c"}}},
        policy=ActorConfig(num_ranks=2, num_cpus=2),
        critic=ActorConfig(num_cpus=9),
        reward=ActorConfig(num_cpus=0.25),
    )
    assert found == (
        "3 of 4 bundles (PACK) have no node: "
        "policy[1] (2 CPU): nodes that are large enough are in use; "
        "critic[0] (9 CPU): no node is large enough; "
        "reward[0] (0.25 CPU, pool=c): no node has its labels. "
        "Free: node large: 1 of 8 CPU, 2 of 2 GPU, pool=a; node small: 2 of 2 CPU, pool=b. "
        "To do: add nodes, end what uses them, or raise placement.timeout_s; "
        "lower num_cpus or num_gpus in `actors`, take roles out of its group, or add larger nodes; "
        "label nodes, or correct the label_selector"
    )


@pytest.mark.parametrize(
    ("placement", "lost"),
    [
        ({"strategy": "STRICT_PACK"}, "critic[0] (1 CPU): the strategy forbids the nodes that"),
        ({"strategy": "STRICT_SPREAD"}, "reward[0] (1 CPU): the strategy forbids the nodes that"),
        ({"label_selector": {"pool": "!b"}}, "critic[0] (1 CPU, pool=!b): nodes that are large"),
        ({"label_selector": {"pool": "in(b, c)"}}, "reward[0] (1 CPU, pool=in(b, c)): nodes that"),
        ({"label_selector": {"pool": "!in(a, b)"}}, "policy[0] (1 CPU, pool=!in(a, b)): no node"),
        ({"strategy": "SPREAD"}, "all 3 bundles would fit now (SPREAD)"),
    ],
)
def test_strategy_and_labels_are_read_as_ray_reads_them(
    placement: dict[str, object], lost: str
) -> None:
    one = ActorConfig(num_cpus=1)
    assert lost in missing(placement, policy=one, critic=one, reward=one)


class Seated:
    """Can be restarted."""

    def load(self) -> None:
        """Nothing to load."""


def rest_of_bundles() -> dict[str, float]:
    """CPUs of each bundle that no actor holds, by the bundle's index."""
    from ray._private.state import available_resources_per_node

    (free,) = available_resources_per_node().values()
    return {
        name.split("_")[2]: amount
        for name, amount in free.items()
        if name.startswith("CPU_group_") and name.count("_") == 3
    }


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.ray
def test_a_restarted_actor_returns_to_its_bundle_and_all_are_given_back(ray_cluster: None) -> None:
    import ray

    roles = {"policy": ActorConfig(num_ranks=2, num_cpus=0.5), "reward": ActorConfig()}
    placement = PlacementConfig(groups=(("policy", "reward"),))
    with reserved_bundles(placement, roles) as bundles:
        group = ActorGroup.start_in(bundles["policy"], "policy", roles["policy"], Seated)
        group.prepare(Seated.load).wait(60)
        wait_until(lambda: rest_of_bundles() == {"0": 0.25})
        group.restart([1]).wait(60)
        wait_until(lambda: rest_of_bundles() == {"0": 0.25})
        assert ray.available_resources()["CPU"] == 0.75
        group.stop()
    wait_until(lambda: ray.available_resources()["CPU"] == 2)


@pytest.mark.ray
def test_what_cannot_be_reserved_is_refused_in_time_and_leaves_nothing(ray_cluster: None) -> None:
    import ray
    from ray.util import placement_group_table

    half = ActorConfig(num_cpus=1.5)
    wait_until(lambda: ray.available_resources()["CPU"] == 2)
    placement = PlacementConfig(groups=(("policy",), ("critic",)), timeout_s=1)
    began = time.monotonic()
    with (
        pytest.raises(
            ResourceError,
            match=r"not reserved within placement.timeout_s=1 s .*: 1 of 2 bundles \(PACK\) have "
            r"no node: critic\[0\] \(1\.5 CPU\): nodes that are .* Free: node [\d.]+: 2 of 2 CPU",
        ),
        reserved_bundles(placement, {"policy": half, "critic": half}),
    ):
        pytest.fail("there is no room")
    assert time.monotonic() - began < 30
    wait_until(lambda: {g["state"] for g in placement_group_table().values()} <= {"REMOVED"})
    assert ray.available_resources()["CPU"] == 2
    wrong = PlacementConfig(label_selector={"pool": "in(a"})
    with (
        pytest.raises(ConfigError, match=r"Ray refuses the placement: .* placement.label_sel"),
        reserved_bundles(wrong, {"policy": half}),
    ):
        pytest.fail("no such selector")


TWO_NODES = """
import json, sys
import ray
from ray.cluster_utils import Cluster
from actors.bundles import reserved_bundles
from actors.group import ActorGroup
from moss.config.placement import PlacementConfig
from moss.config.ppo_actors import ActorConfig
from moss.errors import ResourceError
from actors.model_process import node_id

class Seated:
    def node(self):
        return node_id()

    def gpus(self):
        return [int(gpu) for gpu in ray.get_gpu_ids()]

# Ray counts the GPUs it is told of; nothing here uses them.
head = {"num_cpus": 1, "num_gpus": 2, "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args=head)
pool = cluster.add_node(num_cpus=1, labels={"pool": "rollouts"})
ray.init(address=cluster.address, log_to_driver=False)
said = {}
role = ActorConfig(num_cpus=0.5)
labelled = PlacementConfig(role_label_selectors={"rollout": {"pool": "rollouts"}})
with reserved_bundles(labelled, {"rollout": role, "policy": role}) as bundles:
    group = ActorGroup.start_in(bundles["rollout"], "rollout", role, Seated)
    said["in_pool"] = group.call(Seated.node).only(60) == pool.node_id
trained = ActorConfig(num_ranks=2, num_cpus=0.1, num_gpus=0.6)
roles = {"policy": trained, "rollout": trained.model_copy(update={"num_gpus": 0.4})}
with reserved_bundles(PlacementConfig(groups=(("policy", "rollout"),)), roles) as bundles:
    groups = [ActorGroup.start_in(bundles[name], name, roles[name], Seated) for name in roles]
    said["gpus"] = [group.call(Seated.gpus).wait(60) for group in groups]
for name, strategy, num_cpus in (("spread", "STRICT_SPREAD", 0.25), ("large", "PACK", 1.5)):
    roles = {"policy": ActorConfig(num_ranks=3, num_cpus=num_cpus)}
    try:
        placement = PlacementConfig(groups=(("policy",),), strategy=strategy, timeout_s=1)
        with reserved_bundles(placement, roles):
            said[name] = "reserved"
    except ResourceError as error:
        said[name] = str(error)
print(json.dumps(said))
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_nodes_hold_what_labels_and_strategy_say(tmp_path: Path) -> None:
    script = tmp_path / "two_nodes.py"
    script.write_text(TWO_NODES)
    path = f"{ROOT}{os.pathsep}{ROOT / 'platform'}"
    ended = subprocess.run(
        [sys.executable, str(script)],
        env=clean_environment(PYTHONPATH=path),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ended.returncode == 0, ended.stderr
    said = json.loads(ended.stdout.splitlines()[-1])
    assert said["in_pool"]
    policy, rollout = said["gpus"]
    assert policy == rollout, "rank by rank they share a GPU"
    assert sorted(policy) == [[0], [1]]
    spread, large = said["spread"], said["large"]
    assert "1 of 3 bundles (STRICT_SPREAD) have no node: policy[2] (0.25 CPU): the str" in spread
    assert "3 of 3 bundles (PACK) have no node: policy[0] (1.5 CPU): no node is large" in large
    assert "pool=rollouts" in large
    assert large.count("1 of 1 CPU") == 2
