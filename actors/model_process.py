"""What every actor that holds a model does first."""

from __future__ import annotations

import os
from typing import Final

_SEED: Final = 42


def set_threads(num_threads: int) -> None:
    """Bound this process' threads; more threads than cores multiply CPU time several times over.

    Must run before torch is first imported: OpenMP reads the variable once. Random numbers are
    seeded too, so that a model with dropout, and every training state, is the same in each run.
    """
    os.environ["OMP_NUM_THREADS"] = str(num_threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import torch

    torch.set_num_threads(num_threads)
    torch.manual_seed(_SEED)


def node_id() -> str:
    """The node of the cluster that this process runs on."""
    import ray

    found: str = ray.get_runtime_context().get_node_id()
    return found
