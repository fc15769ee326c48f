"""Replicas that follow the queue: what is told to Ray Serve, and that it does it."""

from __future__ import annotations

import time
from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy.engine import URL

from moss.config.scaling import ScalingConfig
from moss.config.serve import ServeChatConfig
from serve.auth import ApiKeys
from serve.edge_replica import Checkpoint

POSTGRES = "postgresql://moss@db/moss"


def replicas_of(config: ServeChatConfig) -> dict[str, Any]:
    """What the deployments of the service are told."""
    from serve.deployment import EDGE, _application

    checkpoint = Checkpoint("/model", "MOSS-PAT", "v", "2024-01-01T00:00:00", "tiny", None)
    edge = _application(
        config, [checkpoint], ApiKeys(), [512], URL.create("sqlite")
    )._bound_deployment
    bound = {edge.name: edge}
    bound |= {item._bound_deployment.name: item._bound_deployment for item in edge.init_args}
    return {
        "edge": bound[EDGE]._deployment_config,
        "engine": bound["ChatModel-MOSS-PAT"]._deployment_config,
        "tool": bound["Tool-calculator"]._deployment_config,
    }


def test_without_bounds_each_deployment_has_one_replica() -> None:
    for told in replicas_of(ServeChatConfig()).values():
        assert (told.num_replicas, told.autoscaling_config) == (1, None)


def test_bounds_and_delays_reach_the_deployments_they_are_for() -> None:
    config = ServeChatConfig.model_validate(
        {
            "engine": {"scaling": {"min_replicas": 1, "max_replicas": 4, "downscale_delay_s": 60,
                                   "target_ongoing_requests": 16, "upscale_delay_s": 5}},
            "edge_scaling": {"min_replicas": 2, "max_replicas": 3},
            "database": POSTGRES,
        }
    )  # fmt: skip
    told = replicas_of(config)
    engine, edge = told["engine"].autoscaling_config, told["edge"].autoscaling_config
    assert (engine.min_replicas, engine.max_replicas) == (1, 4)
    assert (engine.target_ongoing_requests, engine.look_back_period_s) == (16, 30)
    assert (engine.upscale_delay_s, engine.downscale_delay_s) == (5, 60)
    assert (edge.min_replicas, edge.max_replicas, edge.target_ongoing_requests) == (2, 3, 8)
    assert told["tool"].autoscaling_config is None
    assert config.num_cpus == pytest.approx(1 * 0.5 + 2 * 0.1 + 0.1 * len(config.tools.enabled))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"engine": {"scaling": {"min_replicas": 3, "max_replicas": 2}}}, "min_replicas=3"),
        ({"edge_scaling": {"max_replicas": 2}}, "SQLite"),
        ({"edge_scaling": {"max_replicas": 2}, "database": "chat.sqlite"}, "SQLite"),
        (
            {"edge_scaling": {"max_replicas": 2, "target_ongoing_requests": 32},
             "database": POSTGRES},
            "http.max_ongoing=32",
        ),
    ],
)  # fmt: skip
def test_bounds_that_cannot_work_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ServeChatConfig.model_validate(settings)


@pytest.mark.ray
@pytest.mark.slow
def test_a_queue_brings_another_replica(ray_cluster: None) -> None:
    from ray import serve as ray_serve

    from serve.scaling import replica_options

    class Slow:
        async def __call__(self) -> None:
            import asyncio

            await asyncio.sleep(60)

    scaling = ScalingConfig(
        max_replicas=2, target_ongoing_requests=1, upscale_delay_s=0, look_back_s=11
    )
    deployment = ray_serve.deployment(
        name="Slow", ray_actor_options={"num_cpus": 0}, **replica_options(scaling)
    )(Slow)
    handle = ray_serve.run(deployment.bind(), name="scaling", route_prefix="/scaling")

    def num_replicas() -> int:
        found = ray_serve.status().applications["scaling"].deployments["Slow"]
        return int(sum(found.replica_states.values()))

    try:
        assert num_replicas() == 1
        waiting = [handle.remote() for _ in range(4)]
        deadline = time.monotonic() + 45
        while num_replicas() < 2 and time.monotonic() < deadline:
            time.sleep(0.5)
        assert num_replicas() == 2
        for response in waiting:
            response.cancel()
    finally:
        ray_serve.shutdown()  # the service of other tests starts Serve its own way
