"""A streaming engine over a Transformers model: one thread decodes all open requests in turn."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, Iterator

import torch
from transformers import DynamicCache, PreTrainedModel

from moss.config.ppo import SamplingParams
from moss.errors import DataError
from moss.sampling import draw_tokens
from serve.engines import GenerateParams, TokenDelta


class _Request:
    """One answer being decoded."""

    def __init__(self, steps: Iterator[TokenDelta]) -> None:
        self.steps = steps
        self.loop = asyncio.get_running_loop()
        self.deltas: asyncio.Queue[TokenDelta | BaseException] = asyncio.Queue()
        self.closed = False

    def put(self, item: TokenDelta | BaseException) -> None:
        """Hand an item to the waiting coroutine, whose loop may have ended."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.deltas.put_nowait, item)


class TransformersEngine:
    """Decodes with a key/value cache, one token per open request and round.

    For small models and tests: requests share the processor fairly but not the matrix products.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model.eval()
        self._max_positions = int(model.config.max_position_embeddings)
        self._arrivals: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="decoding", daemon=True)
        self._thread.start()

    @property
    def max_positions(self) -> int:
        """Tokens that prompt and answer may have together."""
        return self._max_positions

    async def generate(
        self, prompt_ids: list[int], params: GenerateParams
    ) -> AsyncGenerator[TokenDelta]:
        """See `serve.engines.Engine.generate`.

        Raises:
            DataError: an empty prompt, or one that leaves no room for the answer.
        """
        if not prompt_ids or len(prompt_ids) + params.max_new_tokens > self._max_positions:
            raise DataError(
                f"a prompt of {len(prompt_ids)} tokens with {params.max_new_tokens} new ones does "
                f"not fit {self._max_positions} positions"
            )
        request = _Request(self._steps(prompt_ids, params))
        self._arrivals.put(request)
        try:
            while True:
                item = await request.deltas.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
                if item.finish_reason is not None:
                    return
        finally:
            request.closed = True

    def close(self) -> None:
        """End the thread once the open requests are done."""
        self._arrivals.put(None)
        self._thread.join(timeout=10.0)

    def _work(self) -> None:
        open_requests: list[_Request] = []
        while True:
            while not open_requests or not self._arrivals.empty():
                arrival = self._arrivals.get()
                if arrival is None:
                    return
                open_requests.append(arrival)
            open_requests = [request for request in open_requests if self._advance(request)]

    def _advance(self, request: _Request) -> bool:
        """Decode one token; False where the request is over."""
        if request.closed:
            return False
        try:
            delta = next(request.steps)
        except Exception as error:  # delivered to the one who asked
            request.put(error)
            return False
        request.put(delta)
        return delta.finish_reason is None

    @torch.inference_mode()
    def _next_logits(self, ids: list[int], cache: DynamicCache) -> torch.Tensor:
        """(1, V) float32."""
        output = self._model(
            input_ids=torch.tensor([ids], device=self._model.device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: torch.Tensor = output.logits[:, -1].float()
        return logits

    def _steps(self, prompt_ids: list[int], params: GenerateParams) -> Iterator[TokenDelta]:
        sampling = SamplingParams(
            temperature=params.temperature,
            top_p=params.top_p,
            max_new_tokens=params.max_new_tokens,
        )
        generator = torch.Generator().manual_seed(params.seed)
        cache = DynamicCache(config=self._model.config)
        ids = prompt_ids
        for step in range(params.max_new_tokens):
            uniforms = torch.rand(1, generator=generator, dtype=torch.float64)
            logits = self._next_logits(ids, cache)
            tokens, _ = draw_tokens(logits, sampling, uniforms.to(logits.device))
            ids = tokens.tolist()
            if ids[0] in params.stop_ids:
                yield TokenDelta([], "stop")
                return
            is_last = step + 1 == params.max_new_tokens
            yield TokenDelta(ids, "length" if is_last else None)
