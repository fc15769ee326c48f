"""A PPO plan as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

from jobs.plan_check import Plan, size
from moss.model_shapes import ModelShape
from moss.ppo_plan import PARTS


def as_text(plan: Plan) -> str:
    """Models, seats, memory of an actor, memory of each place, one iteration, notes."""
    blocks = (_models(plan), _seats(plan), _memory(plan), _places(plan), _iteration(plan))
    notes = [f"note: {note}" for note in plan.notes]
    return "\n\n".join("\n".join(block) for block in (*blocks, notes) if block)


def as_record(plan: Plan) -> dict[str, object]:
    """All figures as JSON holds them; memory in bytes."""
    return {
        "run_id": plan.config.run_id,
        "fits": not plan.problems,
        "problems": plan.problems,
        "notes": plan.notes,
        "num_parameters": {
            "policy": plan.models.policy.num_policy_parameters,
            "critic": plan.models.preference_model.num_value_parameters,
        },
        "seats": [asdict(seat) for seat in plan.seats],
        "memory": {role: asdict(memory) for role, memory in plan.memory.items()},
        "places": [asdict(place) for place in plan.places],
        "kv_cache": asdict(plan.kv_cache),
        "iteration": asdict(plan.batches),
        "num_iterations": plan.num_iterations,
    }


def _models(plan: Plan) -> Iterator[str]:
    policy, preference = plan.models.policy, plan.models.preference_model
    yield from _model("policy, reference, rollout", policy.num_policy_parameters, policy)
    if plan.config.uses_preference_model:
        yield from _model("critic, reward", preference.num_value_parameters, preference)


def _model(roles: str, num_parameters: int, shape: ModelShape) -> Iterator[str]:
    model = shape.model
    yield (
        f"{roles}: {_number(num_parameters)} parameters, {model.architecture} of "
        f"{model.num_layers} layers x {model.hidden_size}, vocabulary {shape.vocab_size:,}"
    )
    yield f"  shape from {shape.source}"


def _seats(plan: Plan) -> Iterator[str]:
    roles = plan.config.started_roles
    rows = [["who", "node", "GPU", "CPUs", "GPUs", "threads"]]
    for seat in plan.seats:
        actor = roles[seat.role]
        rows.append(
            [
                f"{seat.role}[{seat.rank}]",
                "none" if seat.node is None else str(seat.node),
                ",".join(map(str, seat.gpus)) or "-",
                f"{actor.num_cpus:g}",
                f"{actor.num_gpus:g}",
                str(actor.num_threads),
            ]
        )
    nodes = plan.machines.nodes
    yield f"seats on {nodes.count} x ({nodes.num_cpus:g} CPU, {nodes.num_gpus} GPU)"
    yield from _table(rows)


def _memory(plan: Plan) -> Iterator[str]:
    parts = [p for p in PARTS if any(p in memory.device for memory in plan.memory.values())]
    rows = [["one", *parts, "device", "beside it on the node"]]
    for role, memory in plan.memory.items():
        cells = [size(memory.device[part]) if part in memory.device else "-" for part in parts]
        rows.append([role, *cells, size(memory.num_device_bytes), _listed(memory.host)])
    yield "memory of one actor at its worst moment"
    yield from _table(rows)


def _places(plan: Plan) -> Iterator[str]:
    phases = {place.phase for place in plan.places} - {"all"}
    when = ["when"] if phases else []
    rows = [["where", *when, "needed", "present", "share", "who"]]
    for place in plan.places:
        share = f"{place.num_needed / place.num_bytes:.0%}" if place.num_bytes else "-"
        phase = [place.phase] if phases else []
        figures = [size(place.num_needed), size(place.num_bytes), share]
        rows.append([place.name, *phase, *figures, " ".join(place.actors)])
    asleep = ", in the phase that needs most: the rollout engine sleeps in `update`"
    yield f"memory of each GPU and node{asleep if phases else ''}"
    yield from _table(rows)


def _iteration(plan: Plan) -> Iterator[str]:
    batches, cache = plan.batches, plan.kv_cache
    rollouts = _count(batches.num_rollouts, "rollout")
    yield "one iteration"
    yield (
        f"  {_count(batches.num_prompts, 'prompt')} x "
        f"{_count(batches.responses_per_prompt, 'response')} = {rollouts} of at most "
        f"{batches.sequence_tokens:,} tokens; at most {batches.response_tokens:,} response tokens, "
        f"{batches.tokens:,} in all"
    )
    yield (
        f"  {_count(batches.num_epochs, 'epoch')} x "
        f"{_count(batches.num_minibatches, 'minibatch', 'es')} = "
        f"{_count(batches.optimizer_steps, 'optimizer step')} of policy and of critic"
    )
    yield (
        f"  a minibatch: {_count(batches.minibatch_rollouts, 'rollout')} in "
        f"{_count(batches.micro_batches, 'micro-batch', 'es')} of at most "
        f"{batches.micro_batch_rollouts}"
    )
    yield (
        f"  a rollout actor: {_count(cache.num_sequences, 'sequence')} at once, "
        f"{size(cache.sequence_bytes)} of keys and values for each of the longest"
    )
    if plan.num_iterations is None:
        yield "iterations: one pass over the prompts"
    else:
        steps = plan.config.ppo.num_optimizer_steps(plan.num_iterations)
        most = "" if plan.config.num_iterations else "one pass over the prompts, at most "
        yield f"iterations: {most}{plan.num_iterations:,}, {steps:,} optimizer steps"


def _listed(parts: Mapping[str, int]) -> str:
    return " + ".join(f"{part} {size(num_bytes)}" for part, num_bytes in parts.items())


def _count(number: int, noun: str, plural: str = "s") -> str:
    return f"{number:,} {noun}{'' if number == 1 else plural}"


def _number(count: int) -> str:
    if count >= 10**9:
        return f"{count / 10**9:.3f} billion"
    return f"{count / 10**6:.2f} million"


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns as wide as their longest cell; the first and the last flush left."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        first, *middle, last = row
        cells = [cell.rjust(width) for cell, width in zip(middle, widths[1:-1], strict=True)]
        yield "  " + "  ".join([first.ljust(widths[0]), *cells, last]).rstrip()
