"""ActorGroup: plain Python classes as Ray actors, with their types kept.

    policies = ActorGroup.start("policy", config.actors.policy, PolicyActor, num_threads=1)
    policies.call(PolicyActor.save, folder).wait(60)             # every rank, same arguments
    references.map(ReferenceActor.logprobs, shards).wait(60)     # one shard per rank

Methods are named by reference, so a misspelt one or a wrong argument is a type error. Every wait is
bounded. In a guarded group (`guard`) lost ranks, dead or wedged, are brought back, and what they
were asked is asked again. This module holds the project's only `Any`: a Ray handle has no type of
its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from actors.pending import Losses, Pending
from moss.config.ppo_actors import ActorConfig
from moss.errors import ResourceError

if TYPE_CHECKING:
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

A = TypeVar("A")
P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")


class ActorGroup(Generic[A]):
    """Equal actors, one per rank; made by `start`."""

    def __init__(self, name: str, make: Callable[[int], Any], num_ranks: int) -> None:
        self.name = name
        self._make = make
        self._handles = [make(rank) for rank in range(num_ranks)]
        self._prepare: Callable[[Any], Any] | None = None
        self._bring_back: Callable[[Losses], None] | None = None

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
        return cls.start_in(None, name, config, actor_class, *args, **kwargs)

    @classmethod
    def start_in(
        cls,
        bundles: Sequence[PlacementGroupSchedulingStrategy] | None,
        name: str,
        config: ActorConfig,
        actor_class: Callable[P, A],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> ActorGroup[A]:
        """`start`, with a reserved bundle for each rank, to which `restart` brings it back."""
        import ray

        remote_class = ray.remote(actor_class)

        def make(rank: int) -> Any:
            return remote_class.options(
                num_cpus=config.num_cpus,
                num_gpus=config.num_gpus,
                max_restarts=0,
                scheduling_strategy=bundles[rank] if bundles else None,
            ).remote(*args, **kwargs)

        return cls(name, make, config.num_ranks)

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
        return self._ask(
            name,
            range(self.num_ranks),
            lambda _, handle: getattr(handle, name).remote(*args, **kwargs),
        )

    @overload
    def call_on(
        self,
        ranks: Sequence[int],
        method: Callable[Concatenate[A, P], Awaitable[R]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Pending[R]: ...
    @overload
    def call_on(
        self,
        ranks: Sequence[int],
        method: Callable[Concatenate[A, P], R],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Pending[R]: ...
    def call_on(
        self,
        ranks: Sequence[int],
        method: Callable[Concatenate[A, P], Any],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Pending[Any]:
        """Start a method on some ranks, which nobody brings back if they are lost meanwhile."""
        name = method.__name__
        references = [getattr(self._handles[rank], name).remote(*args, **kwargs) for rank in ranks]
        return Pending(self.name, name, references, ranks=ranks)

    def prepare(
        self, method: Callable[Concatenate[A, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> Pending[R]:
        """Start on every rank what makes it ready for work; `restart` repeats it on new actors."""
        name = method.__name__
        self._prepare = lambda handle: getattr(handle, name).remote(*args, **kwargs)
        return self.call(method, *args, **kwargs)

    def restart(self, ranks: Sequence[int]) -> Pending[object]:
        """Kill some ranks and start them anew; what comes back is their preparation."""
        import ray

        assert self._prepare is not None, "only actors that were prepared can be prepared again"
        for rank in ranks:
            ray.kill(self._handles[rank])
            self._handles[rank] = self._make(rank)
        references = [self._prepare(self._handles[rank]) for rank in ranks]
        return Pending(self.name, "prepare", references, ranks=ranks)

    def guard(self, bring_back: Callable[[Losses], None]) -> None:
        """From now on a wait that finds ranks lost has them brought back and asks them again.

        Args:
            bring_back: makes lost ranks work again, as a rule with `restart`, or raises.
        """
        self._bring_back = bring_back

    def recover(self, losses: Losses) -> None:
        """Bring lost ranks back.

        Raises:
            MossError: nobody guards this group, or its guard gives up.
        """
        if self._bring_back is None:
            raise losses[min(losses)]
        self._bring_back(losses)

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
        return self._ask(
            name,
            range(len(shards)),
            lambda rank, handle: getattr(handle, name).remote(shards[rank], *args, **kwargs),
        )

    def run(self, function: Callable[[], R]) -> Pending[R]:
        """Start a function in the process of every rank, beside the actor's own methods."""

        def ignore_actor(_: A) -> R:
            return function()

        name = function.__name__
        references = [h.__ray_call__.remote(ignore_actor) for h in self._handles]
        return Pending(self.name, name, references)

    def stop(self) -> None:
        """End every actor at once; what they hold is lost."""
        import ray

        for handle in self._handles:
            ray.kill(handle)
        self._handles.clear()

    def _ask(
        self, method: str, ranks: Sequence[int], send: Callable[[int, Any], Any]
    ) -> Pending[Any]:
        asked: dict[int, Any] = {}

        def ask(ranks: Sequence[int]) -> list[Any]:
            asked.update((rank, self._handles[rank]) for rank in ranks)
            return [send(rank, self._handles[rank]) for rank in ranks]

        def ask_again(losses: Losses) -> Pending[Any]:
            # An actor that owes several answers is lost once: the first wait replaces it.
            lost = {rank: losses[rank] for rank in losses if asked[rank] is self._handles[rank]}
            if lost:
                self.recover(lost)
            return Pending(self.name, method, ask(list(losses)), ranks=list(losses))

        guarded = self._bring_back is not None
        return Pending(
            self.name, method, ask(ranks), ranks=ranks, ask_again=ask_again if guarded else None
        )
