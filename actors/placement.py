"""What a set of actors needs, summed before the first one starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from moss.config.ppo import ActorConfig
from moss.errors import ResourceError

_ROUNDING = 1e-6
"""Ray counts in ten-thousandths; sums of fractions are off by less."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Resources of all roles of a job."""

    num_cpus: float
    num_gpus: float
    arithmetic: str
    """The sum, role by role, for messages and logs."""


def plan_placement(roles: Mapping[str, ActorConfig]) -> Placement:
    """Add up what the actors of all roles hold at the same time."""
    num_cpus = sum(role.num_ranks * role.num_cpus for role in roles.values())
    num_gpus = sum(role.num_ranks * role.num_gpus for role in roles.values())
    parts = [
        f"{name} {role.num_ranks} x ({role.num_cpus:g} CPU, {role.num_gpus:g} GPU)"
        for name, role in roles.items()
    ]
    return Placement(num_cpus, num_gpus, " + ".join(parts))


def check_placement(placement: Placement, present: Mapping[str, float]) -> None:
    """Compare a placement with what the cluster has (`ray.cluster_resources()`).

    Raises:
        ResourceError: names each resource that falls short, needed and present, and the sum.
    """
    needed = {"CPU": placement.num_cpus, "GPU": placement.num_gpus}
    short = [
        f"{amount:g} {name} needed, {present.get(name, 0.0):g} present"
        for name, amount in needed.items()
        if amount > present.get(name, 0.0) + _ROUNDING
    ]
    if short:
        raise ResourceError(
            f"{'; '.join(short)} ({placement.arithmetic} = {placement.num_cpus:g} CPU, "
            f"{placement.num_gpus:g} GPU). Add nodes, or lower num_cpus, num_gpus or num_ranks "
            "in `actors`"
        )
