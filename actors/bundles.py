"""Bundles of a PPO run's roles, reserved as one Ray placement group; and why they are not.

Ray reserves all bundles or none. A reserved bundle stays the run's when an actor in it dies, so its
successor finds the room again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from moss.config.placement import Bundle, PlacementConfig, Strategy
from moss.config.ppo_actors import ActorConfig
from moss.errors import ConfigError, ResourceError

if TYPE_CHECKING:
    from ray.util.placement_group import PlacementGroup
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

Bundles: TypeAlias = "Mapping[str, Sequence[PlacementGroupSchedulingStrategy]]"
"""Where Ray puts each rank, by role."""

_ROUNDING = 1e-6
_OWN_LABELS = "ray.io/"
"""Ray's own labels, such as the node's id, which a message can do without."""

_REMEDIES = {
    "no node has its labels": "label nodes, or correct the label_selector",
    "no node is large enough": "lower num_cpus or num_gpus in `actors`, take roles out of its "
    "group, or add larger nodes",
    "nodes that are large enough are in use": "add nodes, end what uses them, or raise "
    "placement.timeout_s",
    "the strategy forbids the nodes that have room": "loosen placement.strategy, or add nodes",
}


@dataclass(frozen=True, slots=True)
class NodeRoom:
    """What a living node has, and what of it nobody has reserved."""

    name: str
    free: Mapping[str, float]
    total: Mapping[str, float]
    labels: Mapping[str, str]


@contextmanager
def reserved_bundles(
    placement: PlacementConfig, roles: Mapping[str, ActorConfig]
) -> Iterator[Bundles]:
    """The bundle of each rank, reserved while the block runs; nothing where the config asks for no
    placement group. With the block's end all actors in the bundles end.

    Raises:
        ResourceError: not all bundles were there within `placement.timeout_s`; says which.
        ConfigError: Ray does not understand a label selector.
    """
    bundles = placement.bundles(roles)
    if not bundles:
        yield {}
        return
    from ray.util import remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    group = _ask_for(bundles, placement)
    try:
        _wait_for(group, bundles, placement)
        indices = {seat: index for index, bundle in enumerate(bundles) for seat in bundle.seats}
        yield {
            name: [
                PlacementGroupSchedulingStrategy(
                    group, placement_group_bundle_index=indices[name, rank]
                )
                for rank in range(role.num_ranks)
            ]
            for name, role in roles.items()
        }
    finally:
        remove_placement_group(group)


def _ask_for(bundles: Sequence[Bundle], placement: PlacementConfig) -> PlacementGroup:
    from ray.util import placement_group

    try:
        return placement_group(
            [bundle.resources for bundle in bundles],
            strategy=placement.strategy,
            bundle_label_selector=[dict(bundle.labels) for bundle in bundles],
        )
    except ValueError as error:
        raise ConfigError(
            f"Ray refuses the placement: {error} Correct placement.label_selector or "
            "placement.role_label_selectors"
        ) from error


def _wait_for(group: PlacementGroup, bundles: Sequence[Bundle], placement: PlacementConfig) -> None:
    import ray

    began = time.monotonic()
    ready, _ = ray.wait([group.ready()], timeout=placement.timeout_s)
    if not ready:
        raise ResourceError(
            f"the actors' bundles were not reserved within placement.timeout_s="
            f"{placement.timeout_s:g} s (waited {time.monotonic() - began:.0f} s): "
            f"{missing_bundles(bundles, _rooms(), placement.strategy)}"
        )


def missing_bundles(
    bundles: Sequence[Bundle], nodes: Sequence[NodeRoom], strategy: Strategy
) -> str:
    """Which bundles find no node and why, what each node has free, what to change.

    Each bundle in turn takes the first node with room for it. Ray's own search may end otherwise,
    but what has no node in either cannot be placed.
    """
    left = [dict(node.free) for node in nodes]
    taken: list[int] = []
    missing: list[str] = []
    remedies: list[str] = []
    for bundle in bundles:
        found = [number for number, _ in enumerate(nodes) if _fits(bundle, left[number])]
        labelled = [n for n in found if _matches(bundle.labels, nodes[n].labels)]
        allowed = [n for n in labelled if _allows(strategy, n, taken)]
        if not allowed:
            why = _reason(bundle, nodes, has_room=bool(labelled))
            missing.append(f"{_described(bundle)}: {why}")
            remedies += [_REMEDIES[why]] * (_REMEDIES[why] not in remedies)
            continue
        taken.append(allowed[0])
        for name, amount in bundle.resources.items():
            left[allowed[0]][name] -= amount
    there = "; ".join(_described_node(node) for node in nodes)
    if not missing:
        return (
            f"all {len(bundles)} bundles would fit now ({strategy}), so something freed its "
            f"resources late; run again, or raise placement.timeout_s. Free: {there}"
        )
    return (
        f"{len(missing)} of {len(bundles)} bundles ({strategy}) have no node: "
        f"{'; '.join(missing)}. Free: {there}. To do: {'; '.join(remedies)}"
    )


def _reason(bundle: Bundle, nodes: Sequence[NodeRoom], *, has_room: bool) -> str:
    """A key of `_REMEDIES`."""
    labels, size, use, strategy = _REMEDIES
    if has_room:
        return strategy
    labelled = [node for node in nodes if _matches(bundle.labels, node.labels)]
    if not labelled:
        return labels
    return use if any(_fits(bundle, node.total) for node in labelled) else size


def _allows(strategy: Strategy, node: int, taken: Sequence[int]) -> bool:
    if strategy == "STRICT_SPREAD":
        return node not in taken
    return strategy != "STRICT_PACK" or not taken or node == taken[0]


def _fits(bundle: Bundle, room: Mapping[str, float]) -> bool:
    return all(
        room.get(name, 0.0) + _ROUNDING >= amount for name, amount in bundle.resources.items()
    )


def _matches(wanted: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """As Ray reads selectors: `value`, `!value`, `in(a, b)`, `!in(a, b)`."""
    for key, selector in wanted.items():
        excluded, value = selector.startswith("!"), selector.removeprefix("!")
        listed = value.removeprefix("in").strip("()").split(",") if "(" in value else [value]
        if (labels.get(key) in [item.strip() for item in listed]) == excluded:
            return False
    return True


def _rooms() -> list[NodeRoom]:
    import ray
    from ray._private.state import available_resources_per_node  # no public reader by node

    free = available_resources_per_node()
    return [
        NodeRoom(
            name=str(node["NodeManagerAddress"]),
            free=free.get(node["NodeID"], {}),
            total=node["Resources"],
            labels=node["Labels"],
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def _described(bundle: Bundle) -> str:
    labels = ", ".join(f"{key}={value}" for key, value in bundle.labels.items())
    return f"{bundle.name} ({_amounts(bundle.resources)}{', ' if labels else ''}{labels})"


def _described_node(node: NodeRoom) -> str:
    shown = [name for name in ("CPU", "GPU") if node.total.get(name)]
    amounts = ", ".join(
        f"{node.free.get(name, 0.0):g} of {node.total[name]:g} {name}" for name in shown
    )
    labels = [f"{k}={v}" for k, v in node.labels.items() if not k.startswith(_OWN_LABELS)]
    return f"node {node.name}: {amounts or 'nothing'}{''.join(f', {label}' for label in labels)}"


def _amounts(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in resources.items())
