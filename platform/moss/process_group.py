"""The process group of one role's ranks: they meet through a store that rank 0 serves.

Only joining stands here; what the ranks then say to each other is in `moss.engine`.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import torch.distributed
from torch._C._distributed_c10d import Store, TCPStore

from moss.errors import WaitTimeoutError

ANY_PORT = 0


@dataclass(frozen=True, slots=True)
class Membership:
    """One rank's place in the group of its role, and where the group meets."""

    role: str
    rank: int
    num_ranks: int
    host: str
    """Of rank 0."""
    port: int


def serve_store(host: str, *, num_ranks: int, timeout_s: float) -> TCPStore:
    """The meeting point at a free port of this machine; it lives as long as the object."""
    return TCPStore(
        host,
        ANY_PORT,
        num_ranks,
        is_master=True,
        timeout=timedelta(seconds=timeout_s),
        wait_for_workers=False,
    )


def join_group(
    member: Membership,
    *,
    device: Literal["cpu", "cuda"],
    timeout_s: float,
    store: TCPStore | None,
) -> None:
    """Make this process a rank of the group, once all ranks have come.

    Args:
        timeout_s: longest wait for the other ranks, now and in every later collective.
        store: rank 0's, from `serve_store`; None on the others.
    Raises:
        WaitTimeoutError: the ranks did not meet; names role, rank and meeting point.
    """
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    timeout = timedelta(seconds=timeout_s)
    try:
        met: Store = store or TCPStore(member.host, member.port, member.num_ranks, timeout=timeout)
        torch.distributed.init_process_group(
            "nccl" if device == "cuda" else "gloo",
            store=met,
            rank=member.rank,
            world_size=member.num_ranks,
            timeout=timeout,
        )
    except RuntimeError as error:  # torch's own errors of networks and stores are kinds of it
        raise WaitTimeoutError(
            f"{member.role}[{member.rank}] did not meet all {member.num_ranks} ranks of its role "
            f"at {member.host}:{member.port} within {timeout_s:g} s ({error}). Look at the logs of "
            "the other ranks; their nodes must reach this address; if they are only slow, raise "
            f"actors.{member.role}.collective_timeout_s"
        ) from error
