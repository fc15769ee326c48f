"""What a set of actors needs, and where it could sit, before the first one starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moss.config.placement import Bundle, PlacementConfig, Strategy
from moss.config.ppo_actors import ActorConfig

_ROUNDING = 1e-6
"""Ray counts in ten-thousandths; sums of fractions are off by less."""
_APART = PlacementConfig()
"""Every actor where there is room for it."""


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


def plan_placement(
    roles: Mapping[str, ActorConfig], placement: PlacementConfig = _APART
) -> Placement:
    """Add up what the actors of all roles hold at the same time."""
    num_cpus = sum(role.num_ranks * role.num_cpus for role in roles.values())
    num_gpus = sum(role.num_ranks * role.num_gpus for role in roles.values())
    arithmetic = " + ".join(
        f"{name} {role.num_ranks} x ({role.num_cpus:g} CPU, {role.num_gpus:g} GPU)"
        for name, role in roles.items()
    )
    bundles = placement.bundles(roles)
    if bundles:
        num_gpus = sum(bundle.num_gpus for bundle in bundles)
        arithmetic += f", in {len(bundles)} bundles of whole GPUs"
    return Placement(num_cpus, num_gpus, arithmetic)


def seat_actors(
    roles: Mapping[str, ActorConfig], nodes: Nodes, placement: PlacementConfig = _APART
) -> list[Seat]:
    """Put every rank, or every bundle of ranks, on the first node, and the first GPUs, with room
    for it, in starting order.

    Ray decides when the actors start, and may spread them otherwise; whom this leaves without a
    seat will hardly find one there either. Labels are not looked at: `nodes` are all alike.
    """
    free = [_FreeNode(nodes.num_cpus, [1.0] * nodes.num_gpus) for _ in range(nodes.count)]
    bundled = {
        (seat.role, seat.rank): seat
        for bundle in placement.bundles(roles)
        for seat in _seat_bundle(bundle, roles, free, placement.strategy)
    }
    return [
        bundled.get((name, rank)) or _seat(name, rank, role, free)
        for name, role in roles.items()
        for rank in range(role.num_ranks)
    ]


def unseated_problem(
    seats: Sequence[Seat],
    roles: Mapping[str, ActorConfig],
    nodes: Nodes,
    placement: PlacementConfig = _APART,
) -> str | None:
    """Who found no node, what all ask for, what there is, what to do; None if all sit."""
    lost = [f"{seat.role}[{seat.rank}]" for seat in seats if seat.node is None]
    if not lost:
        return None
    needed = plan_placement(roles, placement)
    looser = ", or loosen `placement`" if placement.reserves else ""
    return (
        f"{', '.join(lost)}: no node has room. {needed.num_cpus:g} CPU and {needed.num_gpus:g} GPU "
        f"needed ({needed.arithmetic}), {nodes.count} x ({nodes.num_cpus:g} CPU, "
        f"{nodes.num_gpus} GPU) present. Add nodes, or lower num_cpus, num_gpus or num_ranks in "
        f"`actors`{looser}"
    )


@dataclass(slots=True)
class _FreeNode:
    num_cpus: float
    gpu_shares: list[float]
    num_bundles: int = 0


def _seat_bundle(
    bundle: Bundle, roles: Mapping[str, ActorConfig], free: list[_FreeNode], strategy: Strategy
) -> list[Seat]:
    """Seats of all ranks in a bundle: shares of a GPU on its first one, whole ones on the rest."""
    for number in _allowed_nodes(strategy, free):
        node = free[number]
        gpus = _free_gpus(bundle.num_gpus, node.gpu_shares)
        if gpus is None or node.num_cpus + _ROUNDING < bundle.num_cpus:
            continue
        node.num_cpus -= bundle.num_cpus
        node.num_bundles += 1
        for gpu in gpus:
            node.gpu_shares[gpu] = 0.0
        within = _FreeNode(bundle.num_cpus, [1.0] * len(gpus))
        ranks = [
            _seat(role, rank, roles[role], [within]) for role, rank in _shares_first(bundle, roles)
        ]
        return [
            Seat(seat.role, seat.rank, number, tuple(gpus[index] for index in seat.gpus))
            for seat in ranks
        ]
    return [Seat(role, rank, None, ()) for role, rank in bundle.seats]


def _shares_first(bundle: Bundle, roles: Mapping[str, ActorConfig]) -> list[tuple[str, int]]:
    return sorted(bundle.seats, key=lambda seat: roles[seat[0]].num_gpus >= 1)


def _allowed_nodes(strategy: Strategy, free: Sequence[_FreeNode]) -> list[int]:
    """Nodes that the next bundle may go to, best first."""
    numbers = list(range(len(free)))
    match strategy:
        case "PACK":
            return numbers
        case "SPREAD":
            return sorted(numbers, key=lambda number: free[number].num_bundles)
        case "STRICT_SPREAD":
            return [number for number in numbers if not free[number].num_bundles]
        case "STRICT_PACK":
            return [number for number in numbers if free[number].num_bundles] or numbers


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
