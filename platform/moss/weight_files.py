"""Model weights as one safetensors file with a digest: how they travel from trainer to sampler.

The file lies in shared memory where there is some, so that a push between processes of one machine
costs two memory copies. There each push rewrites the file of the one before: to take new pages from
the kernel costs three times as much as to fill old ones.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
import torch
import xxhash
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from moss import storage
from moss.errors import WeightSyncError

_SHARED_MEMORY: Final = Path("/dev/shm")
_FOLDER_PREFIX: Final = "moss-weights-"
_SAFETENSORS_DTYPES: Final = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
}
_ALIGNMENT: Final = 8
"""Of the first tensor, in bytes."""


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
    """XXH3 of 128 bits (hex) over names, dtypes, shapes and bytes, in name order."""
    digest = xxhash.xxh3_128()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(_bytes(tensor))
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
    """Write `weights` to a file in `folder`, a `transfer_folder`, for receivers that copy them.

    Of names that share one tensor (tied embeddings) only the first is written. In shared memory the
    file of an earlier version is written over: nobody may still read it.

    Raises:
        WeightSyncError: the file cannot be written.
    """
    tensors = _without_aliases(weights)
    name = "weights" if _is_shared_memory(folder) else f"version-{version}"
    path = Path(folder) / f"{name}.safetensors"
    try:
        _write_safetensors(tensors, path)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise WeightSyncError(
            f"weights version {version} could not be written to {path}: {error}; "
            "free space in that folder (shared memory is limited in containers)"
        ) from error
    return WeightFile(
        path=str(path),
        version=version,
        digest=weights_digest(tensors),
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


def discard_weights(file: WeightFile) -> None:
    """Remove what receivers have read, unless the next push is to write over it."""
    path = Path(file.path)
    if not _is_shared_memory(path.parent):
        path.unlink(missing_ok=True)


def _is_shared_memory(folder: str | Path) -> bool:
    return Path(folder).parent == _SHARED_MEMORY


def _write_safetensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """As `safetensors` does, without its copy of every tensor, over an existing file in place."""
    header, offset = {}, 0
    for name, tensor in tensors.items():
        end = offset + tensor.nbytes
        header[name] = {
            "dtype": _SAFETENSORS_DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(_bytes(tensor))
        file.truncate()


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.view(-1).view(torch.uint8).numpy().data


def _without_aliases(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    seen: set[tuple[int, tuple[int, ...]]] = set()
    kept: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        identity = (tensor.data_ptr(), tuple(tensor.shape))
        if identity not in seen:
            seen.add(identity)
            kept[name] = tensor.detach().cpu().contiguous()
    return kept
