"""What a PPO run will hold, from its config alone: memory by role.

Each role counts what its actor does (`actors/policy.py` and its neighbors); the formulas are in
`moss.memory_plan`. Figures are for one actor at its worst moment: the longest sequences that the
config allows, in the largest group of rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from moss import memory_plan
from moss.batch_plan import forward_rows, rollouts_per_rank, trained_rows
from moss.config.ppo import RolloutConfig, TrainPPOConfig
from moss.config.ppo_actors import ActorConfig, ReferenceActorConfig, TrainedActorConfig
from moss.memory_plan import FP32_BYTES, Precision, element_bytes
from moss.model_shapes import ModelShape

GIB: Final = 1 << 30
PARTS: Final = (
    *("weights", "gradients", "optimizer", "sharding"),
    *("activations", "logits", "kv_cache"),
)
"""What a device's memory is counted by, in a report's order."""
HELD_PARTS: Final = ("weights", "gradients", "optimizer", "sharding", "kv_cache")
"""What an actor holds of them while it does nothing."""
_PROCESS_BYTES: Final = GIB // 2
"""Interpreter with Ray, torch, Transformers and DeepSpeed imported: 490 MiB resident."""
_VLLM_PROCESS_BYTES: Final = 3 * GIB // 4
"""Interpreter with vLLM's engine imported: 683 MiB resident."""


@dataclass(frozen=True, slots=True)
class RoleMemory:
    """Bytes of one actor of a role, by part; parts that it lacks are absent."""

    device: Mapping[str, int]
    """Where its model lives: a GPU's memory or, without one, the node's."""
    host: Mapping[str, int]
    """Besides, in the memory of its node: `process`, and `weights` on their way."""
    other_host: Mapping[str, int]
    """The same of a rank above 0: it publishes nothing."""

    @property
    def num_device_bytes(self) -> int:
        """All parts on the device."""
        return sum(self.device.values())

    @property
    def num_host_bytes(self) -> int:
        """All parts beside the device."""
        return sum(self.host.values())

    def host_of(self, rank: int) -> Mapping[str, int]:
        """What a rank takes beside its device."""
        return self.other_host if rank else self.host


@dataclass(frozen=True, slots=True)
class Models:
    """Shapes of the two models that a PPO run starts from."""

    policy: ModelShape
    preference_model: ModelShape
    """The policy's where the run reads no preference model."""


@dataclass(frozen=True, slots=True)
class KVCache:
    """Keys and values of one rollout actor."""

    sequence_bytes: int
    """Of one sequence of the longest kind."""
    num_sequences: int
    """Decoded at once, if all fit."""
    num_bytes: int

    @property
    def num_fitting(self) -> int:
        """Longest sequences that fit."""
        return self.num_bytes // self.sequence_bytes


def plan_kv_cache(config: TrainPPOConfig, policy: ModelShape) -> KVCache:
    """Keys and values of one rollout actor: vLLM's fixed share, or what Transformers grows to."""
    rollout = config.rollout
    per_sequence = memory_plan.kv_bytes_per_token(policy.model) * rollout.max_sequence_tokens
    num_sequences = rollouts_per_rank(config, config.actors.rollout)
    if rollout.engine == "vllm":
        num_sequences = min(num_sequences, rollout.vllm.max_num_seqs)
        return KVCache(per_sequence, num_sequences, int(rollout.vllm.kv_cache_gib * GIB))
    return KVCache(per_sequence, num_sequences, per_sequence * num_sequences)


def plan_memory(config: TrainPPOConfig, models: Models) -> dict[str, RoleMemory]:
    """Memory of one actor of each role that the run starts, in that order."""
    memory = {
        "rollout": _rollout_memory(config, models.policy),
        "policy": _policy_memory(config, models.policy),
        "critic": _critic_memory(config, models.preference_model),
        "reference": _reference_memory(config, models.policy),
        "reward": _reward_memory(config, models.preference_model),
    }
    return {role: memory[role] for role in config.started_roles}


def plan_phases(
    config: TrainPPOConfig, memory: Mapping[str, RoleMemory]
) -> dict[str, dict[str, RoleMemory]]:
    """Memory of one actor of each role by phase of an iteration.

    Engines that never sleep may be at their worst moment when the others are at theirs, so there is
    one phase, `all`. Where they sleep there are two: `rollout`, in which the others keep what they
    hold between two steps, and `update`, in which the engine sleeps.
    """
    if not config.rollout.sleep_level:
        return {"all": dict(memory)}
    resting = {
        role: replace(needed, device={k: v for k, v in needed.device.items() if k in HELD_PARTS})
        for role, needed in memory.items()
    }
    asleep = {"rollout": _asleep(config, memory["rollout"])}
    return {
        "rollout": resting | {"rollout": memory["rollout"]},
        "update": dict(memory) | asleep,
    }


def _asleep(config: TrainPPOConfig, rollout: RoleMemory) -> RoleMemory:
    """Its weights in the node's memory; none where vLLM drops them."""
    weights = rollout.device["weights"]
    if config.actors.rollout.device == "cpu":
        return replace(rollout, device={"weights": weights})
    dropped = config.rollout.engine == "vllm" and config.rollout.sleep_level > 1
    kept = 0 if dropped else weights
    # The push's copy of the weights is on its way when the engine is awake again.
    host = {part: size for part, size in rollout.host.items() if part != "weights"}
    host |= {"weights": kept} if kept else {}
    return RoleMemory(device={}, host=host, other_host=host)


def _policy_memory(config: TrainPPOConfig, shape: ModelShape) -> RoleMemory:
    actor, num_parameters = config.actors.policy, shape.num_policy_parameters
    num_predicted = trained_rows(config, actor) * config.rollout.max_sampled_tokens
    parts = _trained_memory(config, actor, shape, num_parameters)
    parts["logits"] = max(
        memory_plan.training_logit_bytes(num_predicted, shape.vocab_size, shape.model.hidden_size),
        _forward_logits(config, actor, shape),
    )
    # Publishing copies the weights out of the model and writes them to shared memory.
    published = 2 * FP32_BYTES * num_parameters
    loaded = _loaded_bytes(actor, num_parameters)
    return _with_host(parts, passing=max(published, loaded), others_passing=loaded)


def _critic_memory(config: TrainPPOConfig, shape: ModelShape) -> RoleMemory:
    actor = config.actors.critic
    parts = _trained_memory(config, actor, shape, shape.num_value_parameters)
    return _with_host(parts, passing=_loaded_bytes(actor, shape.num_value_parameters))


def _reference_memory(config: TrainPPOConfig, shape: ModelShape) -> RoleMemory:
    actor, num_parameters = config.actors.reference, shape.num_policy_parameters
    parts = {
        "weights": element_bytes(actor.precision) * num_parameters,
        "activations": _forward_activations(config, actor, shape),
        "logits": _forward_logits(config, actor, shape),
    }
    return _with_host(parts, passing=_loaded_bytes(actor, num_parameters))


def _reward_memory(config: TrainPPOConfig, shape: ModelShape) -> RoleMemory:
    actor = config.actors.reward
    if not config.rewards.uses_preference_model:
        return _with_host({}, passing=0)
    parts = {
        "weights": FP32_BYTES * shape.num_value_parameters,
        "activations": _forward_activations(config, actor, shape),
    }
    return _with_host(parts, passing=_loaded_bytes(actor, shape.num_value_parameters))


def _rollout_memory(config: TrainPPOConfig, shape: ModelShape) -> RoleMemory:
    rollout, cache = config.rollout, plan_kv_cache(config, shape)
    parts = {
        "weights": FP32_BYTES * shape.num_policy_parameters,
        "activations": _sampling_activations(rollout, shape, cache.num_sequences),
        "logits": memory_plan.sampling_logit_bytes(cache.num_sequences, shape.vocab_size),
        "kv_cache": cache.num_bytes,
    }
    process = _VLLM_PROCESS_BYTES if rollout.engine == "vllm" else _PROCESS_BYTES
    # A push reads the whole file before it replaces a weight.
    passing = FP32_BYTES * shape.num_policy_parameters
    return _with_host(parts, passing=passing, process=process)


def _with_host(
    parts: dict[str, int],
    *,
    passing: int,
    others_passing: int | None = None,
    process: int = _PROCESS_BYTES,
) -> RoleMemory:
    """Args: `passing`, bytes of weights on their way through the node; `others_passing`, those of
    ranks above 0, where they differ."""
    weights = (passing, passing if others_passing is None else others_passing)
    hosts = [{"weights": size, "process": process} for size in weights]
    host, other_host = ({part: size for part, size in h.items() if size} for h in hosts)
    return RoleMemory(parts, host, other_host)


def _loaded_bytes(actor: ActorConfig, num_parameters: int) -> int:
    """A checkpoint is read into the node's memory, from where a GPU copies it."""
    return element_bytes(_precision(actor)) * num_parameters if actor.device == "cuda" else 0


def _trained_memory(
    config: TrainPPOConfig, actor: TrainedActorConfig, shape: ModelShape, num_parameters: int
) -> dict[str, int]:
    """Its state; and the most of an update, a pass without gradients, an optimizer step, and what
    starting takes beyond the state."""
    parallel = actor.parallel
    parts = memory_plan.training_state_bytes(num_parameters, parallel)
    sharding = memory_plan.sharding_bytes(num_parameters, parallel)
    parts |= {"sharding": sharding} if sharding else {}
    trained = memory_plan.training_activation_bytes(
        shape.model,
        num_rows=trained_rows(config, actor),
        num_tokens=config.rollout.max_sequence_tokens,
        parallel=parallel,
    )
    parts["activations"] = max(
        trained,
        _forward_activations(config, actor, shape),
        memory_plan.step_bytes(num_parameters, parallel),
        memory_plan.loading_bytes(num_parameters, parallel) - sum(parts.values()),
    )
    return parts


def _forward_activations(config: TrainPPOConfig, actor: ActorConfig, shape: ModelShape) -> int:
    return memory_plan.forward_activation_bytes(
        shape.model,
        num_rows=forward_rows(config, actor),
        num_tokens=config.rollout.max_sequence_tokens,
        precision=_precision(actor),
    )


def _forward_logits(config: TrainPPOConfig, actor: ActorConfig, shape: ModelShape) -> int:
    num_predicted = forward_rows(config, actor) * config.rollout.max_sampled_tokens
    return memory_plan.forward_logit_bytes(num_predicted, shape.vocab_size)


def _sampling_activations(rollout: RolloutConfig, shape: ModelShape, num_rows: int) -> int:
    """Of the prompts' pass; vLLM cuts the prompts of many sequences into steps."""
    num_tokens = rollout.max_prompt_tokens
    if rollout.engine == "vllm":
        num_rows, num_tokens = 1, rollout.vllm.max_step_tokens(rollout.max_sequence_tokens)
    return memory_plan.forward_activation_bytes(
        shape.model, num_rows=num_rows, num_tokens=num_tokens, precision="fp32"
    )


def _precision(actor: ActorConfig) -> Precision:
    """Reward and rollout actors compute in fp32."""
    if isinstance(actor, ReferenceActorConfig | TrainedActorConfig):
        return actor.precision
    return "fp32"
