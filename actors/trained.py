"""What policy and critic have in common: a learner, spread over the ranks of their role."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from actors.group import ActorGroup
from actors.model_process import node_id, set_threads
from actors.pending import Pending
from moss.config.ppo_actors import TrainedActorConfig

if TYPE_CHECKING:
    import torch
    from torch._C._distributed_c10d import TCPStore

    from moss.experience import UpdateReport
    from moss.learner import Learner
    from moss.part_losses import PartLoss
    from moss.process_group import Membership
    from moss.rollouts import Experience


class TrainedActor:
    """One rank of a trained role; `load`, which each role has its own, comes before all but
    joining.

    All ranks are called at the same time with the same arguments. Each computes its share; what the
    first one answers holds for all.
    """

    _learner: Learner
    _part_loss: PartLoss

    def __init__(self, actor: TrainedActorConfig) -> None:
        set_threads(actor.num_threads)
        self._actor = actor
        self._store: TCPStore | None = None

    def node(self) -> str:
        """The node that this actor sits on."""
        return node_id()

    def open_rendezvous(self, num_ranks: int) -> tuple[str, int]:
        """Rank 0 only: serve the store where so many ranks meet; its host and port."""
        import ray

        from moss.process_group import serve_store

        host: str = ray.util.get_node_ip_address()
        self._store = serve_store(
            host, num_ranks=num_ranks, timeout_s=self._actor.collective_timeout_s
        )
        return host, self._store.port

    def join(self, member: Membership) -> None:
        """Become a rank of the role's process group, before `load`.

        Raises:
            WaitTimeoutError: the other ranks did not come in time.
        """
        from moss.process_group import join_group

        join_group(
            member,
            device=self._actor.device,
            timeout_s=self._actor.collective_timeout_s,
            store=self._store,
        )

    @property
    def dtype(self) -> torch.dtype:
        """What weights are rounded to where they are computed with."""
        import torch

        return torch.bfloat16 if self._actor.precision == "bf16" else torch.float32

    def update(self, experience: Experience, minibatches: Sequence[Sequence[int]]) -> UpdateReport:
        """One optimizer step per minibatch of rows."""
        return self._learner.update(experience, minibatches, self._part_loss)

    def save_state(self, folder: str) -> None:
        """Write weights, optimizer and place in the schedule."""
        self._learner.save(folder)

    def load_state(self, folder: str) -> None:
        """Continue exactly where `save_state` stood."""
        self._learner.load(folder)


R = TypeVar("R", bound=TrainedActor)


def join_ranks(group: ActorGroup[R], timeout_s: float) -> list[Pending[None]]:
    """Make the actors of a role one process group; an actor alone needs none.

    Args:
        timeout_s: longest wait for rank 0 to be up.
    Returns: what to wait for; calls of the actors may follow without waiting.
    """
    from moss.process_group import Membership

    if group.num_ranks == 1:
        return []
    # One shard reaches rank 0 alone.
    ((host, port),) = group.map(TrainedActor.open_rendezvous, [group.num_ranks]).wait(timeout_s)
    members = [
        Membership(group.name, rank, group.num_ranks, host, port) for rank in range(group.num_ranks)
    ]
    return [group.map(TrainedActor.join, members)]
