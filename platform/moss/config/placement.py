"""Which roles of a PPO run sit together, and on which nodes, as configuration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field, model_validator

from moss.config.base import Config
from moss.config.ppo_actors import ActorConfig

Role = Literal["policy", "critic", "reference", "reward", "rollout"]
Strategy = Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]

_DIGITS = 4
"""Ray counts in ten-thousandths."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """What one rank of each role of a group gets together, on one node."""

    seats: tuple[tuple[str, int], ...]
    """Role and rank of each actor in it."""
    num_cpus: float
    num_gpus: int
    """Whole ones: fractions of a group share a GPU with nobody outside it."""
    labels: Mapping[str, str]
    """What the node must be labelled with."""

    @property
    def name(self) -> str:
        """As messages call it."""
        return "+".join(f"{role}[{rank}]" for role, rank in self.seats)

    @property
    def resources(self) -> dict[str, float]:
        """As Ray counts them, without those that are 0."""
        amounts = {"CPU": self.num_cpus, "GPU": float(self.num_gpus)}
        return {name: amount for name, amount in amounts.items() if amount}


class PlacementConfig(Config):
    """Roles together or apart, reserved in one Ray placement group before the first actor starts.

    With every field at its default there is no placement group, and each actor goes where Ray finds
    room for it. Example: `{groups: [[policy, reference], [critic, reward], [rollout]]}`.
    """

    groups: tuple[tuple[Role, ...], ...] = ()
    """Roles that sit together: rank i of each has its resources from the group's bundle i, which
    holds their sum on one node, GPUs rounded up to whole ones. `num_gpus` below 1 of roles in one
    group are shares of the same GPU. Roles not named sit alone, a bundle for each rank."""
    strategy: Strategy = "PACK"
    """Bundles on few nodes (`PACK`) or many (`SPREAD`), if possible or always (`STRICT_`)."""
    timeout_s: float = Field(60.0, gt=0)
    """Longest wait for all bundles; an autoscaling cluster starts its nodes within it."""
    label_selector: dict[str, str] = Field(default_factory=dict)
    """Labels that the node of every bundle must have, such as `{pool: trainers}`; a value may also
    be `!value`, `in(a, b)` or `!in(a, b)`."""
    role_label_selectors: dict[Role, dict[str, str]] = Field(default_factory=dict)
    """Further labels for the bundles that hold a role; they win over `label_selector`."""

    @model_validator(mode="after")
    def every_role_sits_in_one_group(self) -> Self:
        """A rank has one bundle."""
        if any(not group for group in self.groups):
            raise ValueError("placement.groups holds a group without roles; leave it out")
        named = [role for group in self.groups for role in group]
        twice = sorted({role for role in named if named.count(role) > 1})
        if twice:
            raise ValueError(
                f"placement.groups names {', '.join(twice)} more than once; a role sits in one "
                "group"
            )
        return self

    @property
    def reserves(self) -> bool:
        """Whether there is a placement group at all."""
        labelled = self.label_selector or self.role_label_selectors
        return bool(self.groups or labelled or self.strategy != "PACK")

    def bundles(self, roles: Mapping[str, ActorConfig]) -> list[Bundle]:
        """The bundles of the roles that a run starts, group by group; none without `reserves`.

        Raises:
            ValueError: roles that cannot share a bundle.
        """
        if not self.reserves:
            return []
        named = {role for group in self.groups for role in group}
        alone = [(role,) for role in roles if role not in named]
        started = [[role for role in group if role in roles] for group in (*self.groups, *alone)]
        return [
            self._bundle([role for role in group if roles[role].num_ranks > rank], rank, roles)
            for group in started
            for rank in range(max((roles[role].num_ranks for role in group), default=0))
        ]

    def _bundle(self, group: Sequence[str], rank: int, roles: Mapping[str, ActorConfig]) -> Bundle:
        shares = [roles[role].num_gpus for role in group]
        fractions = round(sum(share for share in shares if share < 1), _DIGITS)
        bundle = Bundle(
            seats=tuple((role, rank) for role in group),
            num_cpus=round(sum(roles[role].num_cpus for role in group), _DIGITS),
            num_gpus=math.ceil(sum(share for share in shares if share >= 1) + fractions),
            labels=self._labels(group),
        )
        if fractions > 1:
            raise ValueError(
                f"{', '.join(group)} share a GPU, but their num_gpus below 1 add up to "
                f"{fractions:g}; lower them to at most 1 together, or take one out of the group"
            )
        if not bundle.resources:
            raise ValueError(
                f"{bundle.name} asks for 0 CPU and 0 GPU, which no placement group can reserve; "
                "set num_cpus above 0"
            )
        return bundle

    def _labels(self, group: Sequence[str]) -> dict[str, str]:
        labels: dict[str, str] = {}
        for role, own in self.role_label_selectors.items():
            if role not in group:
                continue
            for key, value in own.items():
                if labels.setdefault(key, value) != value:
                    raise ValueError(
                        f"{', '.join(group)} sit on one node, but placement.role_label_selectors "
                        f"asks for {key}={labels[key]} and {key}={value}; choose one"
                    )
        return self.label_selector | labels
