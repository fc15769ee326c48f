"""The engine protocol of the chat service, and an adapter from batched samplers to it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol

from moss.config.ppo import SamplingParams
from moss.rollouts import Rollout, SampleRequest

if TYPE_CHECKING:
    from moss.sampling import Sampler


@dataclass(frozen=True, slots=True)
class GenerateParams:
    """How one section is generated."""

    max_new_tokens: int
    stop_ids: tuple[int, ...]
    """Generation ends before the first of these; it is not part of the answer."""
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    request_id: str = ""
    """Of the client's request, for logs."""


@dataclass(frozen=True, slots=True)
class TokenDelta:
    """The next tokens of an answer."""

    ids: list[int]
    finish_reason: Literal["stop", "length"] | None = None
    """Set on the last delta only."""


class Engine(Protocol):
    """Generates token ids after a prompt of token ids."""

    @property
    def max_positions(self) -> int:
        """Tokens that prompt and answer may have together."""
        ...

    def generate(self, prompt_ids: list[int], params: GenerateParams) -> AsyncGenerator[TokenDelta]:
        """Deltas as they are made; closing the iterator stops generation."""
        ...


@dataclass(slots=True)
class TokenCount:
    """Tokens of one turn as they come, so that those of a turn that is cut short count too."""

    prompt: int = 0
    """Of the section that was begun last, the earlier sections of the turn included."""
    completion: int = 0
    """Generated in all sections."""

    @property
    def total(self) -> int:
        """Both together."""
        return self.prompt + self.completion


class CountedEngine:
    """An engine that keeps the count of one turn, and tells the engine whose turn it is."""

    def __init__(self, engine: Engine, count: TokenCount, request_id: str = "") -> None:
        self._engine = engine
        self._count = count
        self._request_id = request_id

    @property
    def max_positions(self) -> int:
        """Tokens that prompt and answer may have together."""
        return self._engine.max_positions

    async def generate(
        self, prompt_ids: list[int], params: GenerateParams
    ) -> AsyncGenerator[TokenDelta]:
        """The engine's deltas."""
        self._count.prompt = len(prompt_ids)
        deltas = self._engine.generate(prompt_ids, replace(params, request_id=self._request_id))
        async with aclosing(deltas):
            async for delta in deltas:
                self._count.completion += len(delta.ids)
                yield delta


@dataclass(slots=True)
class _Waiting:
    request: SampleRequest
    answer: asyncio.Future[Rollout]


class AsyncBatcher:
    """Makes an engine of a batched sampler: requests of a few milliseconds run as one batch.

    For work with many turns at once (evaluation). Each answer is one delta. It belongs to one event
    loop; the sampler runs in a thread, one batch at a time.
    """

    def __init__(
        self, sampler: Sampler, *, max_positions: int, max_batch: int = 64, wait_s: float = 0.005
    ) -> None:
        self._sampler = sampler
        self._max_positions = max_positions
        self._max_batch = max_batch
        self._wait_s = wait_s
        self._groups: dict[tuple[SamplingParams, tuple[int, ...]], list[_Waiting]]
        self._groups = defaultdict(list)
        self._worker: asyncio.Task[None] | None = None

    @property
    def max_positions(self) -> int:
        """Tokens that prompt and answer may have together."""
        return self._max_positions

    async def generate(
        self, prompt_ids: list[int], params: GenerateParams
    ) -> AsyncGenerator[TokenDelta]:
        """The whole answer as one delta; raises what the sampler raises."""
        sampling = SamplingParams(
            temperature=params.temperature,
            top_p=params.top_p,
            max_new_tokens=params.max_new_tokens,
        )
        waiting = _Waiting(
            SampleRequest(prompt_ids=prompt_ids, seed=params.seed),
            asyncio.get_running_loop().create_future(),
        )
        self._groups[sampling, params.stop_ids].append(waiting)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        rollout = await waiting.answer
        ids = rollout.response_ids
        if rollout.finish_reason == "stop":
            ids = ids[:-1]
        yield TokenDelta(ids, rollout.finish_reason)

    async def _work(self) -> None:
        while self._groups:
            await asyncio.sleep(self._wait_s)
            key = max(self._groups, key=lambda item: len(self._groups[item]))
            batch = self._groups[key][: self._max_batch]
            self._groups[key] = self._groups[key][self._max_batch :]
            if not self._groups[key]:
                del self._groups[key]
            batch = [item for item in batch if not item.answer.done()]
            if batch:
                await self._run(batch, *key)

    async def _run(
        self, batch: list[_Waiting], params: SamplingParams, stop_ids: tuple[int, ...]
    ) -> None:
        requests = [item.request for item in batch]
        try:
            rollouts = await asyncio.to_thread(self._sampler.generate, requests, params, stop_ids)
        except Exception as error:  # each waiting turn gets it, none is left hanging
            for item in batch:
                if not item.answer.done():
                    item.answer.set_exception(error)
            return
        for item, rollout in zip(batch, rollouts, strict=True):
            if not item.answer.done():
                item.answer.set_result(rollout)
