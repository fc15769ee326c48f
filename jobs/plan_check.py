"""A PPO plan: seats, memory of each GPU and node, and what cannot be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from actors.placement import Seat, seat_actors, unseated_problem
from jobs.plan_inputs import PlanInputs
from jobs.plan_machines import Machines
from moss.batch_plan import BatchArithmetic, plan_batches
from moss.config.ppo import TrainPPOConfig
from moss.ppo_plan import GIB, KVCache, Models, RoleMemory, plan_kv_cache, plan_memory

VLLM_FREE_SHARE = 0.92
"""vLLM starts only where this share of a GPU is free (its `gpu_memory_utilization`), however small
the cache that it is told to take."""
VLLM_ARCHITECTURES = ("llama",)
"""Those of ours that are in vLLM's model registry; CodeGen is not."""
_TIGHT_SHARE = 0.9
_UNITS = ((GIB, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
_FIXED_PARTS = ("weights", "gradients", "optimizer", "sharding", "kv_cache", "process")


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
    seats = seat_actors(config.started_roles, machines.nodes)
    memory = plan_memory(config, models)
    places = _places(seats, memory, machines)
    batches, cache = plan_batches(config), plan_kv_cache(config, models.policy)
    unseated = unseated_problem(seats, config.started_roles, machines.nodes)
    problems = [
        *([unseated] if unseated else []),
        *_positions_problems(inputs),
        *_vllm_problems(inputs, seats, cache),
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


def _places(seats: list[Seat], memory: Mapping[str, RoleMemory], machines: Machines) -> list[Place]:
    """Every node and every GPU that holds something, nodes' GPUs first."""
    held: dict[tuple[int, int | None], list[tuple[Seat, Mapping[str, int]]]] = {}
    for seat in seats:
        if seat.node is None:
            continue
        parts = memory[seat.role]
        held.setdefault((seat.node, seat.gpus[0] if seat.gpus else None), []).append(
            (seat, parts.device)
        )
        held.setdefault((seat.node, None), []).append((seat, parts.host_of(seat.rank)))
    return [
        Place(
            node=node,
            gpu=gpu,
            num_bytes=machines.node_bytes if gpu is None else machines.gpu_bytes,
            actors=tuple(dict.fromkeys(f"{seat.role}[{seat.rank}]" for seat, _ in loads)),
            needed=_add_up([parts for _, parts in loads]),
        )
        for (node, gpu), loads in sorted(held.items(), key=lambda item: _order(item[0]))
    ]


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
        again = _places(seats, plan_memory(smaller, inputs.models), machines)
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


def _vllm_problems(inputs: PlanInputs, seats: list[Seat], cache: KVCache) -> Iterator[str]:
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
    for seat in seats:
        beside = [f"{other.role}[{other.rank}]" for other in seats if _shares_gpu(seat, other)]
        if seat.role == "rollout" and beside:
            yield (
                f"rollout[{seat.rank}] shares a GPU with {', '.join(beside)}, but vLLM starts only "
                f"where {VLLM_FREE_SHARE:.0%} of a GPU is free; set actors.rollout.num_gpus=1, or "
                "rollout.engine=transformers"
            )


def _shares_gpu(seat: Seat, other: Seat) -> bool:
    same = seat is not other and seat.node == other.node
    return same and bool(set(seat.gpus) & set(other.gpus))


def _notes(config: TrainPPOConfig, cache: KVCache, places: list[Place]) -> Iterator[str]:
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
