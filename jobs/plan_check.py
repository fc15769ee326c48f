"""A PPO plan: seats, memory of each GPU and node, and what cannot be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from actors.placement import Seat, seat_actors, unseated_problem
from jobs.plan_inputs import PlanInputs
from jobs.plan_machines import Machines
from moss.batch_plan import BatchArithmetic, plan_batches
from moss.config.ppo import TrainPPOConfig
from moss.config.rollout import MOST_GPU_SHARE
from moss.ppo_plan import (
    GIB,
    HELD_PARTS,
    KVCache,
    Models,
    RoleMemory,
    plan_kv_cache,
    plan_memory,
    plan_phases,
)
from moss.staleness import uncorrected_staleness

VLLM_ARCHITECTURES = ("llama",)
"""Those of ours that are in vLLM's model registry; CodeGen is not."""
_TIGHT_SHARE = 0.9
_UNITS = ((GIB, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
_FIXED_PARTS = (*HELD_PARTS, "process")


@dataclass(frozen=True, slots=True)
class Place:
    """The memory of a node, or of one of its GPUs, with what has to lie in it."""

    node: int
    gpu: int | None
    num_bytes: int
    """What there is."""
    actors: tuple[str, ...]
    """`role[rank]` of all that need some of it."""
    needed: Mapping[str, int]
    """Bytes by part, over all of them."""
    phase: str
    """When that is: `all` where every actor may be at its worst moment at once; where the rollout
    engine sleeps, the phase that needs most, `rollout` or `update`."""

    @property
    def key(self) -> tuple[int, int | None]:
        """Node and GPU."""
        return self.node, self.gpu

    @property
    def name(self) -> str:
        """As a report calls it."""
        return f"node {self.node}" + ("" if self.gpu is None else f" GPU {self.gpu}")

    @property
    def num_needed(self) -> int:
        """All parts."""
        return sum(self.needed.values())


@dataclass(frozen=True, slots=True)
class Plan:
    """A run before it starts."""

    config: TrainPPOConfig
    models: Models
    machines: Machines
    seats: tuple[Seat, ...]
    memory: Mapping[str, RoleMemory]
    """Of one actor of each role."""
    places: tuple[Place, ...]
    kv_cache: KVCache
    batches: BatchArithmetic
    num_iterations: int | None
    """The most there can be; None where the number of prompts is not known."""
    problems: tuple[str, ...]
    """Why it cannot run, each with what to change."""
    notes: tuple[str, ...]


def make_plan(inputs: PlanInputs, machines: Machines) -> Plan:
    """Seat the actors, add up memory, look for what cannot be."""
    config, models = inputs.config, inputs.models
    roles, placement = config.started_roles, config.placement
    seats = seat_actors(roles, machines.nodes, placement)
    memory = plan_memory(config, models)
    places = _places(seats, plan_phases(config, memory), machines)
    batches, cache = plan_batches(config), plan_kv_cache(config, models.policy)
    unseated = unseated_problem(seats, roles, machines.nodes, placement)
    problems = [
        *([unseated] if unseated else []),
        *_positions_problems(inputs),
        *_vllm_problems(inputs, cache),
        *_shared_gpu_problems(config, seats, memory, machines),
        *_memory_problems(inputs, seats, places, machines),
    ]
    one_pass = inputs.num_prompts and max(1, inputs.num_prompts // config.ppo.num_prompts)
    return Plan(
        config=config,
        models=models,
        machines=machines,
        seats=tuple(seats),
        memory=memory,
        places=tuple(places),
        kv_cache=cache,
        batches=batches,
        num_iterations=config.num_iterations or one_pass,
        problems=tuple(problems),
        notes=tuple(_notes(config, cache, places)),
    )


def size(num_bytes: float) -> str:
    """Bytes for people."""
    unit, name = next((item for item in _UNITS if num_bytes >= item[0]), _UNITS[-1])
    return f"{num_bytes / unit:.{unit == GIB:d}f} {name}"


def _places(
    seats: list[Seat], phases: Mapping[str, Mapping[str, RoleMemory]], machines: Machines
) -> list[Place]:
    """Every node and every GPU that holds something, each in the phase that needs most of it,
    nodes' GPUs first."""
    worst: dict[tuple[int, int | None], Place] = {}
    for phase, memory in phases.items():
        for place in _places_in(phase, seats, memory, machines):
            if place.key not in worst or place.num_needed > worst[place.key].num_needed:
                worst[place.key] = place
    return [worst[key] for key in sorted(worst, key=_order)]


def _places_in(
    phase: str, seats: list[Seat], memory: Mapping[str, RoleMemory], machines: Machines
) -> Iterator[Place]:
    held: dict[tuple[int, int | None], list[tuple[Seat, Mapping[str, int]]]] = {}
    for seat in seats:
        if seat.node is None:
            continue
        parts = memory[seat.role]
        held.setdefault((seat.node, seat.gpus[0] if seat.gpus else None), []).append(
            (seat, parts.device)
        )
        held.setdefault((seat.node, None), []).append((seat, parts.host_of(seat.rank)))
    for (node, gpu), loads in held.items():
        yield Place(
            node=node,
            gpu=gpu,
            num_bytes=machines.node_bytes if gpu is None else machines.gpu_bytes,
            actors=tuple(dict.fromkeys(f"{seat.role}[{seat.rank}]" for seat, _ in loads)),
            needed=_add_up([parts for _, parts in loads]),
            phase=phase,
        )


def _order(place: tuple[int, int | None]) -> tuple[int, bool, int]:
    node, gpu = place
    return (node, gpu is None, gpu or 0)


def _add_up(loads: list[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for parts in loads:
        for part, num_bytes in parts.items():
            total[part] = total.get(part, 0) + num_bytes
    return total


def _memory_problems(
    inputs: PlanInputs, seats: list[Seat], places: list[Place], machines: Machines
) -> Iterator[str]:
    for place in places:
        if place.num_needed > place.num_bytes:
            parts = ", ".join(f"{part} {size(amount)}" for part, amount in place.needed.items())
            yield (
                f"{place.name}: {size(place.num_needed)} of memory needed ({parts}) by "
                f"{', '.join(place.actors)}, {size(place.num_bytes)} present. "
                f"{_remedy(place, inputs, seats, machines)}"
            )


def _remedy(place: Place, inputs: PlanInputs, seats: list[Seat], machines: Machines) -> str:
    """The largest micro-batch with which all fits; where there is none, what else helps."""
    config = inputs.config
    for rows in range(config.ppo.micro_batch_size - 1, 0, -1):
        ppo = config.ppo.model_copy(update={"micro_batch_size": rows})
        smaller = config.model_copy(update={"ppo": ppo})
        phases = plan_phases(smaller, plan_memory(smaller, inputs.models))
        again = _places(seats, phases, machines)
        if all(p.num_needed <= p.num_bytes for p in again if (p.node, p.gpu) == place.key):
            return f"Set ppo.micro_batch_size={rows}, it is {config.ppo.micro_batch_size}"
    fixed = sum(place.needed.get(part, 0) for part in _FIXED_PARTS)
    ways = ["more memory", "a smaller model"]
    if "optimizer" in place.needed:
        ways += ["more ranks of a trained role with zero_stage=3", "precision=bf16"]
    if len(place.actors) > 1:
        ways.append("more nodes" if place.gpu is None else "a GPU for each (num_gpus=1)")
    if "kv_cache" in place.needed and inputs.config.rollout.engine == "vllm":
        ways.append("a smaller rollout.vllm.kv_cache_gib")
    if fixed <= place.num_bytes:
        ways.append("shorter sequences (rollout.max_prompt_tokens, sampling.max_new_tokens)")
    return (
        f"{size(fixed)} of it stay whatever the batch, so ppo.micro_batch_size=1 does not "
        f"help: give it {', '.join(ways[:-1])} or {ways[-1]}"
    )


def _positions_problems(inputs: PlanInputs) -> Iterator[str]:
    rollout, model = inputs.config.rollout, inputs.models.policy.model
    if rollout.max_sequence_tokens > model.max_positions:
        yield (
            f"rollout.max_prompt_tokens={rollout.max_prompt_tokens} + max_new_tokens="
            f"{rollout.sampling.max_new_tokens} = {rollout.max_sequence_tokens} tokens, the policy "
            f"has {model.max_positions} positions; lower one of the two"
        )


def _vllm_problems(inputs: PlanInputs, cache: KVCache) -> Iterator[str]:
    """What vLLM refuses at its start."""
    config, architecture = inputs.config, inputs.models.policy.model.architecture
    if config.rollout.engine != "vllm":
        return
    if architecture not in VLLM_ARCHITECTURES:
        yield (
            f"rollout.engine=vllm, but vLLM runs {', '.join(VLLM_ARCHITECTURES)} and no "
            f"{architecture}; set rollout.engine=transformers"
        )
    if not cache.num_fitting:
        yield (
            f"rollout.vllm.kv_cache_gib={config.rollout.vllm.kv_cache_gib:g} holds no sequence of "
            f"{config.rollout.max_sequence_tokens} tokens, which takes "
            f"{size(cache.sequence_bytes)}; raise it, or lower rollout.max_prompt_tokens or "
            "rollout.sampling.max_new_tokens"
        )


def _shared_gpu_problems(
    config: TrainPPOConfig, seats: list[Seat], memory: Mapping[str, RoleMemory], machines: Machines
) -> Iterator[str]:
    """Where others leave vLLM less of a GPU, at its start, than its actor's share."""
    share = min(config.actors.rollout.num_gpus, MOST_GPU_SHARE)
    free_bytes = int((1 - share) * machines.gpu_bytes)
    for seat in seats:
        if seat.role != "rollout" or config.rollout.engine != "vllm":
            continue
        beside = [other for other in seats if _shares_gpu(seat, other)]
        held = sum(
            memory[other.role].device.get(part, 0) for other in beside for part in HELD_PARTS
        )
        if held > free_bytes:
            yield (
                f"rollout[{seat.rank}] shares a GPU with "
                f"{', '.join(f'{other.role}[{other.rank}]' for other in beside)}, which hold "
                f"{size(held)} of {size(machines.gpu_bytes)}, but vLLM starts only where the share "
                f"of its actor, {share:.0%}, is free; lower actors.rollout.num_gpus, or shrink "
                "what is beside it"
            )


def _shares_gpu(seat: Seat, other: Seat) -> bool:
    same = seat is not other and seat.node == other.node
    return same and bool(set(seat.gpus) & set(other.gpus))


def _notes(config: TrainPPOConfig, cache: KVCache, places: list[Place]) -> Iterator[str]:
    if stale := uncorrected_staleness(config):
        yield stale
    if config.placement.label_selector or config.placement.role_label_selectors:
        yield "placement asks for nodes with labels, which a plan does not know: it takes any node"
    if 0 < cache.num_fitting < cache.num_sequences:
        yield (
            f"rollout.vllm.kv_cache_gib={config.rollout.vllm.kv_cache_gib:g} holds "
            f"{cache.num_fitting} of {cache.num_sequences} sequences of the longest kind; others "
            f"wait ({size(cache.sequence_bytes * cache.num_sequences)} would hold all)"
        )
    for place in places:
        if place.gpu is not None and _TIGHT_SHARE <= place.num_needed / place.num_bytes <= 1:
            yield (
                f"{place.name} is {place.num_needed / place.num_bytes:.0%} full; its driver's "
                "context, kernels' workspaces and fragmentation come on top"
            )
