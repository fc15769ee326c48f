"""Answers that actors still owe, and which ranks of a group were lost while they were awaited."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

from moss.errors import ActorLostError, MossError, WaitTimeoutError

if TYPE_CHECKING:
    from ray import ObjectRef

R_co = TypeVar("R_co", covariant=True)

Losses = Mapping[int, MossError]
"""Rank to why it is lost: its actor died, or gave no answer in time."""


class Pending(Generic[R_co]):
    """Answers on their way from ranks of a group."""

    def __init__(
        self,
        group: str,
        method: str,
        references: Sequence[ObjectRef[R_co]],
        *,
        ranks: Sequence[int] | None = None,
        ask_again: Callable[[Losses], Pending[R_co]] | None = None,
    ) -> None:
        """Args:
        ranks: who answers, by reference; the first ranks if None.
        ask_again: brings lost ranks back and repeats the call to them; None where nobody can.
        """
        self._group, self._method, self._ask_again = group, method, ask_again
        ranks = range(len(references)) if ranks is None else ranks
        self._references = dict(zip(ranks, references, strict=True))

    def wait(self, timeout_s: float, *, beside: Sequence[Pending[object]] = ()) -> list[R_co]:
        """The answers in rank order; in a guarded group also of ranks that had to be brought back.

        Args:
            beside: what other groups owe, and is awaited next; whom nobody can bring back among
                them is an error as soon as it is lost.
        Raises:
            WaitTimeoutError: not all ranks answered in time; names group, method, ranks, seconds.
            ActorLostError: an actor died.
            MossError: what the method raised, as it raised it.
        """
        all_ranks = self._ask_again is not None
        answers, losses = self._collect(timeout_s, all_ranks=all_ranks, beside=beside)
        while losses:
            if self._ask_again is None:
                raise losses[min(losses)]
            # The time of the first try is used up, and what is new has to warm up.
            more, losses = self._ask_again(losses).settle(timeout_s)
            answers |= more
        return [answers[rank] for rank in self._references]

    def settle(self, timeout_s: float) -> tuple[dict[int, R_co], dict[int, MossError]]:
        """Answers by rank, and the ranks without one, which are left as they are.

        Raises:
            MossError: what the method raised, as it raised it.
        """
        return self._collect(timeout_s, all_ranks=True)

    def only(self, timeout_s: float) -> R_co:
        """The answer of a group of one; raises as `wait`."""
        (result,) = self.wait(timeout_s)
        return result

    def _collect(
        self, timeout_s: float, *, all_ranks: bool, beside: Sequence[Pending[object]] = ()
    ) -> tuple[dict[int, R_co], dict[int, MossError]]:
        """As `settle`; without `all_ranks` the first loss ends it, for ranks that compute together
        wait in vain for a lost one."""
        import ray

        deadline = time.monotonic() + timeout_s
        answers: dict[int, R_co] = {}
        losses: dict[int, MossError] = {}
        waiting = {reference: rank for rank, reference in self._references.items()}
        watched = {
            reference: (other, rank)
            for other in beside
            if other._ask_again is None
            for rank, reference in other._references.items()
        }
        while waiting and (all_ranks or not losses):
            left_s = max(0.0, deadline - time.monotonic())
            ready, _ = ray.wait([*waiting, *watched], num_returns=1, timeout=left_s)
            if not ready:
                losses |= {rank: self._late(rank, timeout_s) for rank in waiting.values()}
                break
            (reference,) = ready
            if reference in watched:
                other, rank = watched.pop(reference)
                other._answer(rank, reference, timeout_s)
                continue
            rank = waiting.pop(reference)
            try:
                answers[rank] = self._answer(rank, reference, timeout_s)
            except (ActorLostError, WaitTimeoutError) as error:
                losses[rank] = error
        return answers, losses

    def _answer(self, rank: int, reference: ObjectRef[R_co], timeout_s: float) -> R_co:
        """An answer that is there, unless its node goes away at this moment."""
        import ray

        where = self._where(rank)
        try:
            answer: R_co = ray.get(reference, timeout=timeout_s)
        except ray.exceptions.GetTimeoutError as error:
            raise self._late(rank, timeout_s) from error
        except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError) as error:
            raise ActorLostError(
                f"actor {self._group}[{rank}] died while {where} was awaited: {error}. If the "
                "system killed it for memory, lower batch sizes or give the node more"
            ) from error
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, MossError):
                raise type(cause)(f"{where}: {cause}") from error
            raise
        return answer

    def _late(self, rank: int, timeout_s: float) -> WaitTimeoutError:
        return WaitTimeoutError(
            f"{self._where(rank)} gave no answer within {timeout_s:g} s. Look at the actor's log "
            "and stack (ray stack); if it only is slow, raise the phase's limit in `timeouts`"
        )

    def _where(self, rank: int) -> str:
        return f"{self._group}[{rank}].{self._method}"
