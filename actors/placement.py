"""What a set of actors needs, and where it could sit, before the first one starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moss.config.ppo_actors import ActorConfig

_ROUNDING = 1e-6
"""Ray counts in ten-thousandths; sums of fractions are off by less."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Resources of all roles of a job."""

    num_cpus: float
    num_gpus: float
    arithmetic: str
    """The sum, role by role, for messages and logs."""


@dataclass(frozen=True, slots=True)
class Nodes:
    """Equal nodes of a cluster."""

    count: int
    num_cpus: float
    num_gpus: int


@dataclass(frozen=True, slots=True)
class Seat:
    """Where one actor sits."""

    role: str
    rank: int
    node: int | None
    """None if no node has room for it."""
    gpus: tuple[int, ...]
    """GPUs of the node that the actor sees; its model lives on the first."""


def plan_placement(roles: Mapping[str, ActorConfig]) -> Placement:
    """Add up what the actors of all roles hold at the same time."""
    num_cpus = sum(role.num_ranks * role.num_cpus for role in roles.values())
    num_gpus = sum(role.num_ranks * role.num_gpus for role in roles.values())
    parts = [
        f"{name} {role.num_ranks} x ({role.num_cpus:g} CPU, {role.num_gpus:g} GPU)"
        for name, role in roles.items()
    ]
    return Placement(num_cpus, num_gpus, " + ".join(parts))


def seat_actors(roles: Mapping[str, ActorConfig], nodes: Nodes) -> list[Seat]:
    """Put every rank on the first node, and the first GPUs, with room for it, in starting order.

    Ray decides when the actors start, and may spread them otherwise; whom this leaves without a
    seat will hardly find one there either.
    """
    free = [_FreeNode(nodes.num_cpus, [1.0] * nodes.num_gpus) for _ in range(nodes.count)]
    return [
        _seat(name, rank, role, free)
        for name, role in roles.items()
        for rank in range(role.num_ranks)
    ]


def unseated_problem(
    seats: Sequence[Seat], roles: Mapping[str, ActorConfig], nodes: Nodes
) -> str | None:
    """Who found no node, what all ask for, what there is, what to do; None if all sit."""
    lost = [f"{seat.role}[{seat.rank}]" for seat in seats if seat.node is None]
    if not lost:
        return None
    needed = plan_placement(roles)
    return (
        f"{', '.join(lost)}: no node has room. {needed.num_cpus:g} CPU and {needed.num_gpus:g} GPU "
        f"needed ({needed.arithmetic}), {nodes.count} x ({nodes.num_cpus:g} CPU, "
        f"{nodes.num_gpus} GPU) present. Add nodes, or lower num_cpus, num_gpus or num_ranks in "
        "`actors`"
    )


@dataclass(slots=True)
class _FreeNode:
    num_cpus: float
    gpu_shares: list[float]


def _seat(name: str, rank: int, role: ActorConfig, free: list[_FreeNode]) -> Seat:
    for number, node in enumerate(free):
        gpus = _free_gpus(role.num_gpus, node.gpu_shares)
        if gpus is None or node.num_cpus + _ROUNDING < role.num_cpus:
            continue
        node.num_cpus -= role.num_cpus
        for gpu in gpus:
            node.gpu_shares[gpu] -= min(1.0, role.num_gpus)
        return Seat(name, rank, number, gpus)
    return Seat(name, rank, None, ())


def _free_gpus(num_gpus: float, shares: list[float]) -> tuple[int, ...] | None:
    """Whole GPUs that nobody uses, or one with a free share; None where there are too few."""
    wanted = min(1.0, num_gpus)
    count = 0 if not num_gpus else max(1, round(num_gpus))
    found = [gpu for gpu, share in enumerate(shares) if share + _ROUNDING >= wanted]
    return tuple(found[:count]) if len(found) >= count else None
