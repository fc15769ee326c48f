"""A deployment's replicas as Ray Serve wants them told."""

from __future__ import annotations

from typing import TypedDict

from ray.serve.config import AutoscalingConfig

from moss.config.scaling import ScalingConfig


class ReplicaOptions(TypedDict, total=False):
    """Options of `ray.serve.deployment`; one of the two is there."""

    num_replicas: int
    autoscaling_config: AutoscalingConfig


def replica_options(scaling: ScalingConfig) -> ReplicaOptions:
    """A fixed number of replicas, or bounds between which Serve's autoscaler moves it."""
    if not scaling.is_automatic:
        return {"num_replicas": scaling.min_replicas}
    autoscaling = AutoscalingConfig(
        min_replicas=scaling.min_replicas,
        max_replicas=scaling.max_replicas,
        target_ongoing_requests=scaling.target_ongoing_requests,
        look_back_period_s=scaling.look_back_s,
        upscale_delay_s=scaling.upscale_delay_s,
        downscale_delay_s=scaling.downscale_delay_s,
    )
    return {"autoscaling_config": autoscaling}
