"""ActorGroup: plain Python classes as Ray actors, with their types kept.

    policies = ActorGroup.start("policy", config.actors.policy, PolicyActor, num_threads=1)
    policies.call(PolicyActor.save, folder).wait(60)             # every rank, same arguments
    references.map(ReferenceActor.logprobs, shards).wait(60)     # one shard per rank

Methods are named by reference, so a misspelt one or a wrong argument is a type error. Every wait is
bounded. This module holds the project's only `Any`: a Ray handle has no type of its own.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from moss.config.ppo_actors import ActorConfig
from moss.errors import MossError, ResourceError, WaitTimeoutError

A = TypeVar("A")
P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
S = TypeVar("S")


class Pending(Generic[R_co]):
    """Answers on their way from every rank of a group."""

    def __init__(self, group: str, method: str, references: Sequence[Any]) -> None:
        self._group, self._method, self._references = group, method, list(references)

    def wait(self, timeout_s: float) -> list[R_co]:
        """The answers in rank order.

        Raises:
            WaitTimeoutError: not all ranks answered in time; names group, method, ranks, seconds.
            ResourceError: an actor died.
            MossError: what the method raised, as it raised it.
        """
        import ray

        deadline = time.monotonic() + timeout_s
        results: list[R_co] = []
        for rank, reference in enumerate(self._references):
            where = f"{self._group}[{rank}].{self._method}"
            try:
                results.append(ray.get(reference, timeout=max(0.0, deadline - time.monotonic())))
            except ray.exceptions.GetTimeoutError as error:
                raise WaitTimeoutError(
                    f"{where} gave no answer within {timeout_s:g} s. Look at the actor's log and "
                    "stack (ray stack); if it only is slow, raise the phase's limit in `timeouts`"
                ) from error
            except ray.exceptions.RayActorError as error:
                raise ResourceError(
                    f"actor {self._group}[{rank}] died while {where} was awaited: {error}. If the "
                    "system killed it for memory, lower batch sizes or give the node more"
                ) from error
            except ray.exceptions.RayTaskError as error:
                cause = error.cause
                if isinstance(cause, MossError):
                    raise type(cause)(f"{where}: {cause}") from error
                raise
        return results

    def only(self, timeout_s: float) -> R_co:
        """The answer of a group of one; raises as `wait`."""
        (result,) = self.wait(timeout_s)
        return result


class ActorGroup(Generic[A]):
    """Equal actors, one per rank; made by `start`."""

    def __init__(self, name: str, handles: Sequence[Any]) -> None:
        self.name = name
        self._handles = list(handles)

    @classmethod
    def start(
        cls,
        name: str,
        config: ActorConfig,
        actor_class: Callable[P, A],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> ActorGroup[A]:
        """Ask Ray for `config.num_ranks` actors of a class; returns before they are up.

        Constructors should be light: what they raise reaches the caller only as an actor's death.
        """
        import ray

        remote_class = ray.remote(actor_class).options(
            num_cpus=config.num_cpus, num_gpus=config.num_gpus, max_restarts=0
        )
        return cls(name, [remote_class.remote(*args, **kwargs) for _ in range(config.num_ranks)])

    @property
    def num_ranks(self) -> int:
        """Actors in the group."""
        return len(self._handles)

    @overload
    def call(
        self,
        method: Callable[Concatenate[A, P], Awaitable[R]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Pending[R]: ...
    @overload
    def call(
        self, method: Callable[Concatenate[A, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> Pending[R]: ...
    def call(
        self, method: Callable[Concatenate[A, P], Any], *args: P.args, **kwargs: P.kwargs
    ) -> Pending[Any]:
        """Start a method on every rank with the same arguments."""
        name = method.__name__
        return Pending(
            self.name, name, [getattr(h, name).remote(*args, **kwargs) for h in self._handles]
        )

    @overload
    def map(
        self,
        method: Callable[Concatenate[A, S, P], Awaitable[R]],
        shards: Sequence[S],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Pending[R]: ...
    @overload
    def map(
        self,
        method: Callable[Concatenate[A, S, P], R],
        shards: Sequence[S],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Pending[R]: ...
    def map(
        self,
        method: Callable[Concatenate[A, S, P], Any],
        shards: Sequence[S],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Pending[Any]:
        """Start a method with one shard for each of the first ranks; further arguments are shared.

        Raises:
            ResourceError: more shards than ranks.
        """
        if len(shards) > self.num_ranks:
            raise ResourceError(
                f"{len(shards)} shards for the {self.num_ranks} ranks of {self.name}; cut the work "
                "into at most one shard per rank"
            )
        name = method.__name__
        pairs = zip(self._handles, shards, strict=False)
        return Pending(
            self.name,
            name,
            [getattr(handle, name).remote(shard, *args, **kwargs) for handle, shard in pairs],
        )

    def stop(self) -> None:
        """End every actor at once; what they hold is lost."""
        import ray

        for handle in self._handles:
            ray.kill(handle)
        self._handles.clear()
