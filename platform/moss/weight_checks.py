"""What a sampler asks of pushed weights: newer, of its own shape, and at work once loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from torch import Tensor

from moss.config.ppo import SamplingParams
from moss.errors import WeightSyncError
from moss.rollouts import SampleRequest
from moss.weight_files import WeightFile

if TYPE_CHECKING:
    from moss.sampling import Sampler

_PROBE_TOLERANCE_NATS: Final = 5e-3
"""Far above what fp32 kernels differ by, far below what a matrix left behind does."""


def check_newer(file: WeightFile, *, current: int) -> None:
    """Raise WeightSyncError unless the file's version is above the one that samples now."""
    if file.version <= current:
        raise WeightSyncError(
            f"weights version {file.version} were pushed, but version {current} samples already; "
            "a trainer publishes rising versions"
        )


def check_fit(
    weights: Mapping[str, Tensor], held: Mapping[str, tuple[int, ...]], *, version: int
) -> None:
    """Raise WeightSyncError unless the weights have the names and shapes that the sampler holds."""
    pushed = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if pushed != dict(held):
        names = pushed.keys() | held.keys()
        differing = sorted(name for name in names if pushed.get(name) != held.get(name))
        first = differing[0]
        raise WeightSyncError(
            f"weights version {version} differ from the sampler's model in {len(differing)} tensors"
            f", first {first}: pushed {pushed.get(first)}, held {held.get(first)}"
        )


def check_probe(sampler: Sampler, file: WeightFile) -> None:
    """Raise WeightSyncError unless the sampler computes with the weights it has just loaded.

    Reading a sampler's parameters is not enough: engines keep packed copies beside them.
    """
    if file.probe is None:
        return
    request = SampleRequest(file.probe.prompt_ids, seed=0)
    greedy = SamplingParams(temperature=0.0, max_new_tokens=1)
    (rollout,) = sampler.generate([request], greedy, [])
    (logprob,) = rollout.logprobs
    if not abs(logprob - file.probe.logprob) <= _PROBE_TOLERANCE_NATS:
        raise WeightSyncError(
            f"after loading weights version {file.version} the sampler's likeliest next token has "
            f"logprob {logprob:.5f}, the trainer's has {file.probe.logprob:.5f}: part of the "
            "weights did not take effect"
        )
