"""Planned bytes against the tensors of real models."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from moss import memory_plan
from moss.config.model import ModelConfig
from moss.config.optimization import OptimizerConfig, ParallelConfig
from moss.config.ppo_actors import TrainedActorConfig
from moss.engine import TrainingEngine
from moss.forward import response_logprobs, response_values
from moss.models import ValueModel, build_policy
from tests.moss.live_tensors import LiveTensors

FP32 = ParallelConfig()
VOCAB = 512
LLAMA = ModelConfig(hidden_size=64, num_layers=4, num_heads=8, intermediate_size=256)
GROUPED = LLAMA.model_copy(update={"num_kv_heads": 2, "tie_embeddings": False})
CODEGEN = LLAMA.model_copy(
    update={"architecture": "codegen", "rotary_dim": 8, "tie_embeddings": False}
)
SHAPES = [
    LLAMA,
    GROUPED,
    CODEGEN,
    LLAMA.model_copy(update={"num_layers": 8, "intermediate_size": 128}),
    CODEGEN.model_copy(update={"num_layers": 2, "intermediate_size": 512}),
]
IDS = ["llama", "grouped", "codegen", "deep-llama", "wide-codegen"]


def built(shape: ModelConfig) -> nn.Module:
    policy: nn.Module = build_policy(shape, vocab_size=VOCAB, pad_id=0, eos_id=1, seed=0)
    return policy


def batch(num_rows: int, num_prompt: int, num_response: int) -> tuple[torch.Tensor, torch.Tensor]:
    ids_BT = torch.randint(2, VOCAB, (num_rows, num_prompt + num_response))
    mask_BT = torch.zeros_like(ids_BT, dtype=torch.bool)
    mask_BT[:, num_prompt:] = True
    return ids_BT, mask_BT


def training_peak(model: nn.Module, forward: Callable[[], torch.Tensor]) -> int:
    """Most that a second micro-batch holds besides weights and gradients."""
    torch.autograd.backward(forward().sum())
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    with LiveTensors([*model.parameters(), *model.buffers(), *gradients]) as live:
        torch.autograd.backward(forward().sum())
    return int(live.peak_bytes)


@pytest.mark.parametrize("shape", SHAPES, ids=IDS)
@pytest.mark.parametrize(("num_prompt", "num_response"), [(24, 8), (80, 16), (240, 16)])
def test_a_policys_update_stays_a_little_below_its_plan(
    shape: ModelConfig, num_prompt: int, num_response: int
) -> None:
    model, (ids_BT, mask_BT) = built(shape), batch(4, num_prompt, num_response)
    planned = memory_plan.training_activation_bytes(
        shape, num_rows=4, num_tokens=num_prompt + num_response, parallel=FP32
    ) + memory_plan.training_logit_bytes(4 * num_response, VOCAB, shape.hidden_size)
    measured = training_peak(
        model,
        lambda: response_logprobs(model, ids_BT, mask_BT, temperature=1.0),
    )
    assert measured <= planned <= 1.35 * measured


@pytest.mark.parametrize("shape", SHAPES, ids=IDS)
def test_a_critics_update_stays_a_little_below_its_plan(shape: ModelConfig) -> None:
    model, (ids_BT, mask_BT) = ValueModel(built(shape).base_model), batch(4, 80, 16)
    planned = memory_plan.training_activation_bytes(shape, num_rows=4, num_tokens=96, parallel=FP32)
    measured = training_peak(model, lambda: response_values(model, ids_BT, mask_BT))
    assert measured <= planned <= 1.2 * measured


@pytest.mark.parametrize("shape", SHAPES, ids=IDS)
def test_checkpointing_takes_the_memory_that_is_planned_for_it(shape: ModelConfig) -> None:
    parallel = ParallelConfig(gradient_checkpointing=True)
    model, (ids_BT, mask_BT) = ValueModel(built(shape).base_model), batch(4, 80, 16)
    model.body.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    planned = memory_plan.training_activation_bytes(
        shape, num_rows=4, num_tokens=96, parallel=parallel
    )
    measured = training_peak(model, lambda: response_values(model, ids_BT, mask_BT))
    assert measured <= planned <= 1.6 * measured
    assert planned < memory_plan.training_activation_bytes(
        shape, num_rows=4, num_tokens=96, parallel=FP32
    )


@pytest.mark.parametrize("shape", SHAPES, ids=IDS)
@pytest.mark.parametrize(("num_prompt", "num_response"), [(24, 8), (80, 16), (240, 16)])
def test_a_pass_without_gradients_stays_below_its_plan(
    shape: ModelConfig, num_prompt: int, num_response: int
) -> None:
    model, (ids_BT, mask_BT) = built(shape), batch(4, num_prompt, num_response)
    with torch.inference_mode(), LiveTensors([*model.parameters(), *model.buffers()]) as live:
        response_logprobs(model, ids_BT, mask_BT, temperature=1.0)
    planned = memory_plan.forward_activation_bytes(
        shape, num_rows=4, num_tokens=num_prompt + num_response, precision="fp32"
    ) + memory_plan.forward_logit_bytes(4 * num_response, VOCAB)
    # Logits come after the blocks, the plan adds them: never more than twice what is held.
    assert live.peak_bytes <= planned <= 1.7 * live.peak_bytes


@pytest.mark.parametrize("shape", [LLAMA, CODEGEN], ids=["llama", "codegen"])
def test_bf16_takes_the_memory_that_is_planned_for_it(shape: ModelConfig) -> None:
    parallel = ParallelConfig(precision="bf16")
    model, (ids_BT, mask_BT) = ValueModel(built(shape).base_model).bfloat16(), batch(4, 80, 16)
    planned = memory_plan.training_activation_bytes(
        shape, num_rows=4, num_tokens=96, parallel=parallel
    )
    measured = training_peak(model, lambda: response_values(model, ids_BT, mask_BT))
    assert measured <= planned <= 1.6 * measured
    with torch.inference_mode(), LiveTensors([*model.parameters(), *model.buffers()]) as live:
        response_values(model, ids_BT, mask_BT)
    planned = memory_plan.forward_activation_bytes(
        shape, num_rows=4, num_tokens=96, precision="bf16"
    )
    assert live.peak_bytes <= planned <= 1.7 * live.peak_bytes


def test_shards_come_with_buckets_and_what_is_gathered() -> None:
    def planned(stage: int, num_parameters: int, device: str = "cpu") -> int:
        parallel = ParallelConfig.model_validate(
            {"zero_stage": stage, "num_workers": 8, "device": device, "precision": "bf16"}
        )
        return memory_plan.sharding_bytes(num_parameters, parallel)

    assert planned(0, 10**9) == 0
    assert planned(1, 10**6) == planned(2, 10**6) == 2 * 10**6
    assert planned(2, 10**6, "cuda") == 2 * 500_000_000
    assert planned(3, 10**6) == 2 * 2 * 10**6
    assert planned(3, 16 * 10**9, "cuda") == 2 * (500_000_000 + 1_050_000_000)


@pytest.mark.parametrize("shape", [LLAMA, CODEGEN], ids=["llama", "codegen"])
def test_the_engine_holds_the_training_state_that_is_planned(shape: ModelConfig) -> None:
    model = built(shape)
    parallel = TrainedActorConfig().parallel
    planned = memory_plan.training_state_bytes(shape.num_parameters(VOCAB), parallel)
    engine = TrainingEngine(model, OptimizerConfig(learning_rate=1e-3), parallel)
    ids_BT, mask_BT = batch(2, 6, 2)

    def compute(policy: nn.Module) -> torch.Tensor:
        return response_logprobs(policy, ids_BT, mask_BT, temperature=1.0).sum()

    engine.forward_backward(compute)
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    held = {"gradients": sum(gradient.nbytes for gradient in gradients)}
    engine.optim_step(1e-3)
    held["weights"] = sum(parameter.nbytes for parameter in model.parameters())
    held["optimizer"] = sum(
        state.nbytes
        for states in engine._optimizer.state.values()
        for state in states.values()
        if state.ndim  # the count of steps is one number
    )
    engine.close()
    assert held == planned


@pytest.mark.parametrize(
    ("zero_stage", "per_parameter"), [(0, 16), (1, 4 + 12 / 8), (2, 2 + 14 / 8), (3, 16 / 8)]
)
def test_mixed_precision_is_sharded_as_in_the_zero_paper(
    zero_stage: int, per_parameter: float
) -> None:
    parallel = ParallelConfig.model_validate(
        {"zero_stage": zero_stage, "precision": "bf16", "num_workers": 8}
    )
    planned = memory_plan.training_state_bytes(8000, parallel)
    assert sum(planned.values()) == 8000 * per_parameter


def test_zero_3_of_the_paper_model_fits_one_node_of_80_gb() -> None:
    parallel = ParallelConfig(zero_stage=3, precision="bf16", num_workers=8)
    planned = memory_plan.training_state_bytes(16_718_000_000, parallel)
    assert sum(planned.values()) == pytest.approx(33.4e9, rel=0.01)


@pytest.mark.parametrize("shape", [LLAMA, GROUPED, CODEGEN], ids=["llama", "grouped", "codegen"])
def test_a_cache_has_the_bytes_per_token_that_are_planned(shape: ModelConfig) -> None:
    with torch.inference_mode():
        cache = built(shape)(torch.randint(2, VOCAB, (3, 7)), use_cache=True).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert held == memory_plan.kv_bytes_per_token(shape) * 3 * 7
