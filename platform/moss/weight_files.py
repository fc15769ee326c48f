"""Model weights as one safetensors file with a digest: how they travel from trainer to sampler.

The file lies in shared memory where there is some, so that a push between processes of one machine
costs two memory copies.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from moss import storage
from moss.errors import WeightSyncError

_SHARED_MEMORY: Final = Path("/dev/shm")
_FOLDER_PREFIX: Final = "moss-weights-"


@dataclass(frozen=True, slots=True)
class WeightProbe:
    """What the trainer's own forward pass says about the published weights."""

    prompt_ids: list[int]
    logprob: float
    """Natural-log probability of the likeliest next token after the prompt, at temperature 1."""


@dataclass(frozen=True, slots=True)
class WeightFile:
    """Published weights: a receiver loads `path` only if it holds what the trainer wrote."""

    path: str
    version: int
    """Optimizer steps behind these weights, counted in iterations."""
    digest: str
    """`weights_digest` of the tensors."""
    num_tensors: int
    size_bytes: int
    probe: WeightProbe | None = None
    """What the receiver must compute once it has loaded the weights; None for no such check."""


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """sha256 (hex) over names, dtypes, shapes and bytes, in name order."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def transfer_folder(across_nodes: str | None = None) -> str:
    """A new private folder for weight files, in shared memory where that is writable.

    Folders that killed processes left behind are removed first.

    Args:
        across_nodes: the run's folder, to make it there, where several nodes have to see it.
    Raises:
        WeightSyncError: `across_nodes` lies in an object store.
    """
    if across_nodes is not None:
        return _folder_across_nodes(across_nodes)
    shared = _SHARED_MEMORY if os.access(_SHARED_MEMORY, os.W_OK) else Path(tempfile.gettempdir())
    for left in shared.glob(f"{_FOLDER_PREFIX}*"):
        owner = left.name.removeprefix(_FOLDER_PREFIX).partition("-")[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(left, ignore_errors=True)
    return tempfile.mkdtemp(prefix=f"{_FOLDER_PREFIX}{os.getpid()}-", dir=shared)


def _folder_across_nodes(run_folder: str) -> str:
    if storage.is_remote(run_folder):
        raise WeightSyncError(
            f"policy and rollout actors sit on several nodes, and {run_folder} is no folder that "
            "they could pass weights through; give the run a workspace that all nodes mount, or "
            "one node with room for all actors"
        )
    folder = Path(storage.absolute(run_folder))
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"{_FOLDER_PREFIX}*"):  # a run has one controller: this process
        shutil.rmtree(left, ignore_errors=True)
    return tempfile.mkdtemp(prefix=_FOLDER_PREFIX, dir=folder)


def write_weights(
    weights: Mapping[str, Tensor],
    folder: str,
    *,
    version: int,
    probe: WeightProbe | None = None,
) -> WeightFile:
    """Write `weights` to `<folder>/version-<version>.safetensors`, whole or not at all.

    Of names that share one tensor (tied embeddings) only the first is written.

    Raises:
        WeightSyncError: the file cannot be written.
    """
    tensors = _without_aliases(weights)
    path = Path(folder) / f"version-{version}.safetensors"
    partial = path.with_suffix(".partial")
    try:
        # Side by side: hashing and writing take equally long, and neither holds the interpreter.
        with ThreadPoolExecutor(1) as pool:
            digest = pool.submit(weights_digest, tensors)
            save_file(tensors, partial)
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise WeightSyncError(
            f"weights version {version} could not be written to {path}: {error}; "
            "free space in that folder (shared memory is limited in containers)"
        ) from error
    return WeightFile(
        path=str(path),
        version=version,
        digest=digest.result(),
        num_tensors=len(tensors),
        size_bytes=path.stat().st_size,
        probe=probe,
    )


def read_weights(file: WeightFile) -> dict[str, Tensor]:
    """Load what `write_weights` wrote and check it.

    Raises:
        WeightSyncError: the file is absent, unreadable, or not what the trainer wrote.
    """
    try:
        weights: dict[str, Tensor] = load_file(file.path)
    except (OSError, SafetensorError) as error:
        raise WeightSyncError(
            f"weights version {file.version} cannot be read from {file.path}: {error}; trainer and "
            "rollout actor must share this folder"
        ) from error
    digest = weights_digest(weights)
    if digest != file.digest:
        raise WeightSyncError(
            f"weights version {file.version} at {file.path} have digest {digest[:12]}, the trainer "
            f"wrote {file.digest[:12]}; the file was altered or replaced"
        )
    return weights


def _without_aliases(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    seen: set[tuple[int, tuple[int, ...]]] = set()
    kept: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        identity = (tensor.data_ptr(), tuple(tensor.shape))
        if identity not in seen:
            seen.add(identity)
            kept[name] = tensor.detach().cpu().contiguous()
    return kept
