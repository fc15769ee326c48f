"""The engine as a Ray Serve deployment, and its handle as an `Engine`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, cast

from moss.config.serve import EngineConfig
from moss.errors import WaitTimeoutError
from serve.engines import Engine, GenerateParams, TokenDelta

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

PACE_S = 0.005
"""Each stream's share of the time between its deltas: what a delta costs on its way through Ray's
streams and the proxy, with a margin."""
LEAST_BETWEEN_S = 0.016
"""A screen's frame: nobody sees deltas that come closer apart, and each costs three processes."""
MOST_BETWEEN_S = 0.1
"""More would look like stutter."""
_HEALTHY_FOR_S = 10.0
_HEALTH_TIMEOUT_S = 20.0


def build_engine(folder: str, config: EngineConfig) -> Engine:
    """Load the checkpoint in `folder` into the configured kind of engine."""
    if config.kind == "vllm":
        from serve.vllm_engine import VLLMEngine

        return VLLMEngine(folder, config)
    import torch

    from moss.models import load_policy
    from serve.transformers_engine import TransformersEngine

    torch.set_num_threads(config.num_threads)
    model = load_policy(folder).to(device=config.device, dtype=getattr(torch, config.dtype))
    return TransformersEngine(model)


class ChatModel:
    """One replica of the engine; made a deployment in `serve.deployment`."""

    def __init__(self, folder: str, config: EngineConfig) -> None:
        self._engine = build_engine(folder, config)
        self._made_token_at = 0.0
        self._num_streams = 0
        self._num_made = 0

    def num_made(self) -> int:
        """Tokens made since the start; a watcher sees by it that generation has stopped."""
        return self._num_made

    def max_positions(self) -> int:
        """Tokens that prompt and answer may have together."""
        return self._engine.max_positions

    async def generate(
        self, prompt_ids: list[int], params: GenerateParams
    ) -> AsyncGenerator[TokenDelta]:
        """Stream the engine's deltas, the more of them in one the more streams there are."""
        self._num_streams += 1
        try:
            async with aclosing(self._engine.generate(prompt_ids, params)) as made:
                async for delta in joined(self._noted(made), self._between_s):
                    yield delta
        finally:
            self._num_streams -= 1

    async def _noted(self, deltas: AsyncGenerator[TokenDelta]) -> AsyncGenerator[TokenDelta]:
        try:
            async for delta in deltas:
                self._made_token_at = time.monotonic()
                self._num_made += len(delta.ids)
                yield delta
        except Exception:  # perhaps the engine is dead: the next check has to prove that it is not
            self._made_token_at = float("-inf")
            raise

    def _between_s(self) -> float:
        return min(MOST_BETWEEN_S, max(LEAST_BETWEEN_S, PACE_S * (self._num_streams - 1)))

    async def check_health(self) -> None:
        """Generate one token unless one was made just now: an engine can die while its process
        lives. Raises WaitTimeoutError, on which Serve replaces the replica."""
        if time.monotonic() - self._made_token_at < _HEALTHY_FOR_S:
            return
        await generate_one_token(self._engine, timeout_s=_HEALTH_TIMEOUT_S)
        self._made_token_at = time.monotonic()


async def joined(
    deltas: AsyncGenerator[TokenDelta], between_s: Callable[[], float]
) -> AsyncGenerator[TokenDelta]:
    """The first delta at once, then those that came within `between_s()` of the last as one.

    Tokens wait at most until the delta after the pause: no timer runs per stream.
    """
    ids: list[int] = []
    given_at = float("-inf")
    async for delta in deltas:
        ids += delta.ids
        now = time.monotonic()
        if delta.finish_reason is None and now - given_at < between_s():
            continue
        given_at = now
        yield TokenDelta(ids, delta.finish_reason)
        ids = []


async def generate_one_token(engine: Engine, *, timeout_s: float) -> None:
    """Prove that the engine generates.

    Raises:
        WaitTimeoutError: no token within `timeout_s`.
    """

    async def first_token() -> None:
        params = GenerateParams(max_new_tokens=1, stop_ids=())
        async with aclosing(engine.generate([0], params)) as deltas:
            await anext(deltas)

    try:
        await asyncio.wait_for(first_token(), timeout_s)
    except TimeoutError as error:
        raise WaitTimeoutError(
            f"the engine made no token within {timeout_s:g} s; it is dead or overloaded"
        ) from error


class RemoteEngine:
    """An `Engine` over the handle of a `ChatModel` deployment."""

    def __init__(
        self, handle: DeploymentHandle, *, max_positions: int, token_timeout_s: float
    ) -> None:
        # Over gRPC a delta costs half of what it costs as an object of Ray's; cloudpickle, which is
        # there for functions and classes, would be a quarter of what is left.
        self._handle = handle.options(
            stream=True,
            _by_reference=False,
            request_serialization="pickle",
            response_serialization="pickle",
        )
        self._max_positions = max_positions
        self._token_timeout_s = token_timeout_s

    @property
    def max_positions(self) -> int:
        """Tokens that prompt and answer may have together."""
        return self._max_positions

    async def generate(
        self, prompt_ids: list[int], params: GenerateParams
    ) -> AsyncGenerator[TokenDelta]:
        """See `serve.engines.Engine.generate`; leaving the stream cancels the remote call.

        Raises:
            WaitTimeoutError: no token within the configured wait.
        """
        deltas = self._handle.generate.remote(prompt_ids, params)
        try:
            while True:
                async with asyncio.timeout(self._token_timeout_s):
                    delta = await anext(deltas)
                yield cast(TokenDelta, delta)
                if delta.finish_reason is not None:
                    return
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            raise WaitTimeoutError(
                f"the engine made no token within {self._token_timeout_s:g} s; it is dead or "
                "overloaded"
            ) from error
        finally:
            deltas.cancel()
