"""After a push every matrix that a vLLM engine computes with is the new one, packed ones too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypedDict

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig, Qwen2Config

from moss.vllm_reload import _record, _UnplannedError

ROOT = Path(__file__).resolve().parents[2]
SHAPE = {
    "vocab_size": 200,  # not a multiple of the 64 to which vLLM pads
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}
MODELS = {
    "llama-tied-head": LlamaConfig(**SHAPE, num_key_value_heads=1, tie_word_embeddings=True),
    "qwen2-biases-own-head": Qwen2Config(**SHAPE, num_key_value_heads=2, tie_word_embeddings=False),
}


class Found(TypedDict):
    """What `vllm_pushes` prints."""

    planned: list[bool]
    gaps: list[float]
    stale: dict[str, float]


def push_to_engine(config: PreTrainedConfig, folder: Path) -> Found:
    """Run `vllm_pushes` on a random model; a process has one engine."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("vllm_pushes.py")), str(folder)],
        capture_output=True,
        text=True,
        timeout=280,
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'platform'}"},
        check=False,
    )
    assert not done.returncode, done.stderr[-3000:]
    found: Found = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", MODELS)
def test_every_position_samples_from_the_last_push_and_a_stale_matrix_shows(
    name: str, tmp_path: Path
) -> None:
    found = push_to_engine(MODELS[name], tmp_path)
    assert max(found["gaps"]) < 1e-3
    assert len(found["stale"]) == 5, "head, attention in and out, feed-forward in and out"
    assert min(found["stale"].values()) > 1e-2
    *planned, untested, untested_again = found["planned"]
    assert len(planned) == 8
    assert all(planned), "this vLLM's layers are no longer as they were tested"
    assert not untested
    assert not untested_again


Load = Callable[[nn.Linear, dict[str, Tensor]], None]


class Loaded(nn.Module):
    """A linear layer that loads itself as it is told."""

    def __init__(self, load: Load) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self._load = load

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        self._load(self.linear, dict(weights))


def fused(linear: nn.Linear, weights: dict[str, Tensor]) -> None:
    linear.weight.data[:2].copy_(weights["upper"])
    linear.weight.data.narrow(0, 2, 2).copy_(weights["lower"])
    linear.bias.data.copy_(weights["bias"])


def transposed(linear: nn.Linear, weights: dict[str, Tensor]) -> None:
    fused(linear, weights)
    linear.weight.data.copy_(torch.cat([weights["upper"], weights["lower"]]).t())


def scaled(linear: nn.Linear, weights: dict[str, Tensor]) -> None:
    fused(linear, weights)
    linear.weight.data.mul_(2)


def without_bias(linear: nn.Linear, weights: dict[str, Tensor]) -> None:
    linear.weight.data[:2].copy_(weights["upper"])
    linear.weight.data[2:].copy_(weights["lower"])


def half(linear: nn.Linear, weights: dict[str, Tensor]) -> None:
    fused(linear, {**weights, "lower": weights["upper"]})


def overlapping(linear: nn.Linear, weights: dict[str, Tensor]) -> None:
    fused(linear, weights)
    linear.weight.data[1:3].copy_(weights["lower"])


def pushed(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"upper": (2, 4), "lower": (2, 4), "bias": (4,)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def test_a_plan_repeats_the_copies_of_loading() -> None:
    model = Loaded(fused)
    plan = _record(model, pushed(0))
    for seed in (1, 2):
        weights = pushed(seed)
        plan.load(weights)
        assert torch.equal(model.linear.weight, torch.cat([weights["upper"], weights["lower"]]))
        assert torch.equal(model.linear.bias, weights["bias"])


@pytest.mark.parametrize("load", [transposed, scaled, without_bias, half, overlapping])
def test_loading_that_is_more_than_whole_copies_has_no_plan(load: Load) -> None:
    with pytest.raises(_UnplannedError, match="its loading"):
        _record(Loaded(load), pushed(0))
