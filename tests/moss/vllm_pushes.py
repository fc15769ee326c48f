"""Child process of `test_vllm_weights`: one vLLM engine takes several pushes; prints what it did.

    python vllm_pushes.py CHECKPOINT

The last line is JSON. `planned`: whether each push went by a plan; before the last two the process
is told that this vLLM was not tested. `gaps`: per push, the largest difference in nats between the
sampled tokens' logprobs and those of the Transformers model. `stale`: the same after a push that
left one packed matrix behind, for each matrix of the last layer and the head.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
import torch
from torch import nn

from moss import vllm_reload
from moss.config.ppo import SamplingParams, VLLMConfig
from moss.forward import evaluate_logprobs, likeliest_logprob
from moss.models import load_policy
from moss.rollouts import RolloutBatch, SampleRequest
from moss.sampling_vllm import VLLMSampler
from moss.vllm_weights import WeightReceiver
from moss.weight_files import WeightProbe, write_weights

PARAMS = SamplingParams(temperature=1.0, max_new_tokens=12)
REQUESTS = [SampleRequest([5 + row, 7, *range(30, 30 + 2 * row)], seed=row) for row in range(6)]
PROBE = [5, 6, 7]


class Pushes:
    """An engine and the Transformers model that it must agree with."""

    def __init__(self, checkpoint: str, folder: str) -> None:
        self.sampler = VLLMSampler(
            checkpoint, VLLMConfig(kv_cache_gib=0.05), max_sequence_tokens=64, policy_version=-1
        )
        self._policy, self._folder, self._version = load_policy(checkpoint), folder, -1

    def push(self, *, probed: bool = True) -> float:
        """Move every weight, push, sample; returns the largest gap over all positions."""
        self._version += 1
        generator = torch.Generator().manual_seed(self._version)
        for parameter in self._policy.parameters():
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
        tied = set(self._policy.all_tied_weights_keys)
        weights = {k: v for k, v in self._policy.state_dict().items() if k not in tied}
        probe = WeightProbe(PROBE, likeliest_logprob(self._policy, PROBE)) if probed else None
        file = write_weights(weights, self._folder, version=self._version, probe=probe)
        self.sampler.push_weights(file)
        rollouts = self.sampler.generate(REQUESTS, PARAMS, [])
        batch = RolloutBatch.from_rollouts(rollouts, pad_id=0)
        logprobs_BT = evaluate_logprobs(self._policy, batch, temperature=1.0, max_rows=8)
        return float(np.abs(logprobs_BT - batch.rollout_logprobs_BT).max())

    def model(self) -> nn.Module:
        model: nn.Module
        (model,) = self.sampler._engine.collective_rpc(lambda worker: worker.get_model())
        return model

    def packed(self) -> list[str]:
        """Names of the head and of the last layer's matrices."""
        return [
            name
            for name, module in self.model().named_modules()
            if "cpu_linear" in vars(module) and (".1." in name or name == "lm_head")
        ]

    @contextmanager
    def never_packed(self, name: str) -> Iterator[None]:
        """The kernel of the module of this name keeps the matrix that it has."""
        module = self.model().get_submodule(name)
        kind, old = type(module), module.cpu_linear
        del module.cpu_linear
        module.__class__ = type(kind.__name__, (kind,), {"cpu_linear": _Fixed(old)})
        yield
        module.__class__ = kind
        module.cpu_linear = old


class _Fixed:
    """An attribute that nothing can set."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __get__(self, module: nn.Module, kind: type) -> object:
        return self._value

    def __set__(self, module: nn.Module, value: object) -> None:
        return


def main(checkpoint: str) -> None:
    """Push, then push with one stale matrix after the other, then push again."""
    with tempfile.TemporaryDirectory() as folder:
        pushes = Pushes(checkpoint, folder)
        gaps, planned, stale = [], [], {}

        def push() -> None:
            gaps.append(pushes.push())
            planned.append(pushes.sampler._receiver.repeats_copies)

        for _ in range(3):
            push()
        for name in pushes.packed():
            with pushes.never_packed(name):
                stale[name] = pushes.push(probed=False)
            push()
        pushes.sampler._receiver = WeightReceiver()
        with patch.object(vllm_reload, "_TESTED_RELEASE", "another"):
            for _ in range(2):
                push()
        print(json.dumps({"planned": planned, "gaps": gaps, "stale": stale}))


if __name__ == "__main__":
    main(sys.argv[1])
