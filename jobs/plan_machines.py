"""The nodes that a plan is for: flags, and this machine for what they leave out."""

from __future__ import annotations

import argparse
import math
import os
from dataclasses import dataclass

from actors.placement import Nodes
from moss.errors import ConfigError

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Machines:
    """What the actors are to run on."""

    nodes: Nodes
    node_bytes: int
    """Memory of a node that the run may take."""
    gpu_bytes: int
    """Memory of one GPU; 0 where there is none."""


def add_machine_flags(parser: argparse.ArgumentParser) -> None:
    """Flags that `read_machines` reads."""
    nodes = parser.add_argument_group("nodes of the cluster, all alike (default: this machine)")
    nodes.add_argument("--num-nodes", type=_count, default=1, metavar="N")
    nodes.add_argument("--node-cpus", type=_amount, metavar="N", help="CPUs of a node")
    nodes.add_argument("--node-gpus", type=_count, metavar="N", help="GPUs of a node")
    nodes.add_argument("--device-memory-gib", type=_amount, metavar="GIB", help="of one GPU")
    nodes.add_argument(
        "--node-memory-gib", type=_amount, metavar="GIB", help="free for the run on each node"
    )


def read_machines(flags: argparse.Namespace) -> Machines:
    """The nodes that the flags describe.

    Raises:
        ConfigError: no node, or GPUs of unknown memory.
    """
    from moss.health import available_memory_bytes

    if not flags.num_nodes:
        raise ConfigError("--num-nodes 0 leaves the actors nowhere to sit; give at least 1")
    num_gpus, gpu_bytes = flags.node_gpus, 0
    if num_gpus is None:
        num_gpus, gpu_bytes = _gpus_here()
    if flags.device_memory_gib is not None:
        gpu_bytes = int(flags.device_memory_gib * GIB)
    if num_gpus and not gpu_bytes:
        raise ConfigError(
            f"--node-gpus {num_gpus} says nothing of their memory; give --device-memory-gib too"
        )
    cpus, memory_gib = flags.node_cpus, flags.node_memory_gib
    return Machines(
        nodes=Nodes(flags.num_nodes, cpus or len(os.sched_getaffinity(0)), num_gpus),
        node_bytes=int(memory_gib * GIB) if memory_gib else available_memory_bytes(),
        gpu_bytes=gpu_bytes,
    )


def _gpus_here() -> tuple[int, int]:
    """How many, and the memory of the smallest in bytes."""
    import torch

    sizes = [
        int(torch.cuda.get_device_properties(index).total_memory)
        for index in range(torch.cuda.device_count())
    ]
    return len(sizes), min(sizes, default=0)


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return number


def _amount(text: str) -> float:
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a finite number above 0")
    return number
