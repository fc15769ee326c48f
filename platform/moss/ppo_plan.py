"""What a PPO run will hold and do, from its config alone: memory by role, batch arithmetic.

Each role counts what its actor does (`actors/policy.py` and its neighbors); the formulas are in
`moss.memory_plan`. Figures are for one actor at its worst moment: the longest sequences that the
config allows, in the largest group of rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from moss import memory_plan
from moss.config.ppo import ActorConfig, RolloutConfig, TrainPPOConfig
from moss.memory_plan import FP32_BYTES
from moss.model_shapes import ModelShape

GIB: Final = 1 << 30
PARTS: Final = ("weights", "gradients", "optimizer", "activations", "logits", "kv_cache")
"""What a device's memory is counted by, in a report's order."""
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

    @property
    def num_device_bytes(self) -> int:
        """All parts on the device."""
        return sum(self.device.values())

    @property
    def num_host_bytes(self) -> int:
        """All parts beside the device."""
        return sum(self.host.values())


@dataclass(frozen=True, slots=True)
class Models:
    """Shapes of the two models that a PPO run starts from."""

    policy: ModelShape
    preference_model: ModelShape
    """The policy's where the run reads no preference model."""


@dataclass(frozen=True, slots=True)
class BatchArithmetic:
    """One iteration in numbers; tokens are the most there can be."""

    num_prompts: int
    responses_per_prompt: int
    num_rollouts: int
    num_epochs: int
    num_minibatches: int
    """Per epoch."""
    minibatch_rollouts: int
    micro_batches: int
    """Per minibatch, with nearly equal rollouts."""
    micro_batch_rollouts: int
    """Of the largest micro-batch."""
    optimizer_steps: int
    """Of policy and of critic, per iteration."""
    sequence_tokens: int
    response_tokens: int
    """Per iteration; what the losses are taken over."""
    tokens: int
    """Per iteration, prompts included."""


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


def plan_batches(config: TrainPPOConfig) -> BatchArithmetic:
    """The numbers of one iteration."""
    ppo, rollout = config.ppo, config.rollout
    rows = ppo.num_rollouts // ppo.num_minibatches
    return BatchArithmetic(
        num_prompts=ppo.num_prompts,
        responses_per_prompt=ppo.responses_per_prompt,
        num_rollouts=ppo.num_rollouts,
        num_epochs=ppo.num_epochs,
        num_minibatches=ppo.num_minibatches,
        minibatch_rollouts=rows,
        micro_batches=-(-rows // ppo.micro_batch_size),
        micro_batch_rollouts=_largest_group(rows, ppo.micro_batch_size),
        optimizer_steps=ppo.num_optimizer_steps(1),
        sequence_tokens=rollout.max_sequence_tokens,
        response_tokens=ppo.num_rollouts * rollout.max_sampled_tokens,
        tokens=ppo.num_rollouts * rollout.max_sequence_tokens,
    )


def plan_kv_cache(config: TrainPPOConfig, policy: ModelShape) -> KVCache:
    """Keys and values of one rollout actor: vLLM's fixed share, or what Transformers grows to."""
    rollout = config.rollout
    per_sequence = memory_plan.kv_bytes_per_token(policy.model) * rollout.max_sequence_tokens
    num_sequences = _rank_rows(config, config.actors.rollout)
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


def _policy_memory(config: TrainPPOConfig, shape: ModelShape) -> RoleMemory:
    actor, batches = config.actors.policy, plan_batches(config)
    num_predicted = batches.micro_batch_rollouts * config.rollout.max_sampled_tokens
    parts = memory_plan.training_state_bytes(shape.num_policy_parameters, actor.parallel)
    parts["activations"] = _trained_activations(config, actor, shape, parts["gradients"])
    parts["logits"] = max(
        memory_plan.training_logit_bytes(num_predicted, shape.vocab_size, shape.model.hidden_size),
        _forward_logits(config, actor, shape),
    )
    # Publishing copies the weights out of the model and writes them to shared memory.
    return _with_host(parts, passing=2 * FP32_BYTES * shape.num_policy_parameters)


def _critic_memory(config: TrainPPOConfig, shape: ModelShape) -> RoleMemory:
    actor = config.actors.critic
    parts = memory_plan.training_state_bytes(shape.num_value_parameters, actor.parallel)
    parts["activations"] = _trained_activations(config, actor, shape, parts["gradients"])
    return _with_host(parts, passing=_loaded_bytes(actor, shape.num_value_parameters))


def _reference_memory(config: TrainPPOConfig, shape: ModelShape) -> RoleMemory:
    actor = config.actors.reference
    parts = {
        "weights": FP32_BYTES * shape.num_policy_parameters,
        "activations": _forward_activations(config, actor, shape),
        "logits": _forward_logits(config, actor, shape),
    }
    return _with_host(parts, passing=_loaded_bytes(actor, shape.num_policy_parameters))


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


def _with_host(parts: dict[str, int], *, passing: int, process: int = _PROCESS_BYTES) -> RoleMemory:
    host = {"weights": passing, "process": process}
    return RoleMemory(parts, {part: size for part, size in host.items() if size})


def _loaded_bytes(actor: ActorConfig, num_parameters: int) -> int:
    """A checkpoint is read into the node's memory, from where a GPU copies it."""
    return FP32_BYTES * num_parameters if actor.device == "cuda" else 0


def _trained_activations(
    config: TrainPPOConfig, actor: ActorConfig, shape: ModelShape, gradient_bytes: int
) -> int:
    """Of an update or of a pass without gradients; or, once both are gone, gradients in a row."""
    batches = plan_batches(config)
    trained = memory_plan.training_activation_bytes(
        shape.model,
        num_rows=batches.micro_batch_rollouts,
        num_tokens=batches.sequence_tokens,
        parallel=actor.parallel,
    )
    flattened = memory_plan.flat_gradient_bytes(gradient_bytes)
    return max(trained, _forward_activations(config, actor, shape), flattened)


def _forward_activations(config: TrainPPOConfig, actor: ActorConfig, shape: ModelShape) -> int:
    return memory_plan.forward_activation_bytes(
        shape.model,
        num_rows=_forward_rows(config, actor),
        num_tokens=config.rollout.max_sequence_tokens,
    )


def _forward_logits(config: TrainPPOConfig, actor: ActorConfig, shape: ModelShape) -> int:
    num_predicted = _forward_rows(config, actor) * config.rollout.max_sampled_tokens
    return memory_plan.forward_logit_bytes(num_predicted, shape.vocab_size)


def _sampling_activations(rollout: RolloutConfig, shape: ModelShape, num_rows: int) -> int:
    """Of the prompts' pass; vLLM cuts the prompts of many sequences into steps."""
    num_tokens = rollout.max_prompt_tokens
    if rollout.engine == "vllm":
        num_rows, num_tokens = 1, rollout.vllm.max_step_tokens(rollout.max_sequence_tokens)
    return memory_plan.forward_activation_bytes(
        shape.model, num_rows=num_rows, num_tokens=num_tokens
    )


def _forward_rows(config: TrainPPOConfig, actor: ActorConfig) -> int:
    """Rows of the largest group that goes through a model without gradients."""
    return _largest_group(_rank_rows(config, actor), config.ppo.micro_batch_size)


def _rank_rows(config: TrainPPOConfig, actor: ActorConfig) -> int:
    return -(-config.ppo.num_rollouts // actor.num_ranks)


def _largest_group(num_rows: int, max_rows: int) -> int:
    """Of the fewest groups of nearly equal size; see `moss.rollouts.length_sorted_groups`."""
    num_groups = -(-num_rows // max_rows)
    return -(-num_rows // num_groups)
