"""A streaming engine over vLLM's AsyncLLM."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

from moss.config.serve import EngineConfig
from moss.errors import DataError
from serve.engines import GenerateParams, TokenDelta

_GIB = 1 << 30


class VLLMEngine:
    """Continuous batching and prefix caching by vLLM; token ids in and out."""

    def __init__(self, folder: str, config: EngineConfig) -> None:
        """Start the engine; call inside a running event loop.

        Args:
            folder: a Transformers checkpoint; no tokenizer is read.
        """
        os.environ.update(
            OMP_NUM_THREADS=str(config.num_threads),
            VLLM_CPU_OMP_THREADS_BIND="nobind",
            VLLM_NO_USAGE_STATS="1",
            HF_HUB_OFFLINE="1",
        )
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM
        from vllm.v1.executor.uniproc_executor import UniProcExecutor

        settings = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))
        self._max_positions = int(settings["max_position_embeddings"])
        on_cpu = config.device == "cpu"
        memory = (
            {"kv_cache_memory_bytes": int(config.kv_cache_gib * _GIB)}
            if on_cpu
            else {"gpu_memory_utilization": config.gpu_memory_share}
        )
        self._engine = AsyncLLM.from_engine_args(
            AsyncEngineArgs(
                model=folder,
                skip_tokenizer_init=True,
                dtype=config.dtype,
                enforce_eager=on_cpu,
                max_model_len=self._max_positions,
                max_num_seqs=config.max_num_seqs,
                enable_prefix_caching=True,
                disable_log_stats=True,
                # vLLM's default on CPU is one more process, for binding threads to cores, which is
                # off here; the engine's process waits for it in a busy loop that takes a core.
                distributed_executor_backend=UniProcExecutor if on_cpu else None,
                **memory,
            )
        )

    @property
    def max_positions(self) -> int:
        """Tokens that prompt and answer may have together."""
        return self._max_positions

    async def generate(
        self, prompt_ids: list[int], params: GenerateParams
    ) -> AsyncGenerator[TokenDelta]:
        """See `serve.engines.Engine.generate`; leaving the stream aborts the request in vLLM."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        drawn = SamplingParams(
            temperature=params.temperature,
            top_p=params.top_p,
            max_tokens=params.max_new_tokens,
            seed=params.seed,
            stop_token_ids=list(params.stop_ids),
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        request_id = uuid.uuid4().hex
        stops = frozenset(params.stop_ids)
        outputs = self._engine.generate({"prompt_token_ids": prompt_ids}, drawn, request_id)
        async with aclosing(outputs):
            async for output in outputs:
                (completion,) = output.outputs
                ids = [token for token in completion.token_ids if token not in stops]
                if not output.finished:
                    yield TokenDelta(ids)
                elif completion.finish_reason in ("stop", "length"):
                    yield TokenDelta(ids, completion.finish_reason)
                else:
                    reason = completion.finish_reason
                    raise DataError(f"vLLM ended a request with reason {reason!r}")

    def close(self) -> None:
        """Stop the engine's processes."""
        self._engine.shutdown()
