"""A Sampler over a vLLM engine that lives in this process.

The engine runs inside the caller (`VLLM_ENABLE_V1_MULTIPROCESSING=0`): vLLM's own server classes
start two more processes, one after the other, each importing torch and vLLM anew, and the process
that owns this sampler is a Ray actor already. Weights arrive as a safetensors file;
`moss.vllm_weights` puts them into layers whose weights vLLM's CPU kernels have packed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
from safetensors import safe_open

from moss.config.ppo import SamplingParams, VLLMConfig
from moss.config.rollout import MOST_GPU_SHARE
from moss.errors import DataError, WeightSyncError
from moss.rollouts import FinishReason, Rollout, SampleRequest
from moss.sampling import NO_WEIGHTS, check_requests, in_order, token_limit
from moss.vllm_weights import WeightReceiver
from moss.weight_checks import check_fit, check_newer, check_probe
from moss.weight_files import WeightFile, read_weights

if TYPE_CHECKING:
    from vllm.outputs import RequestOutput

_GIB: Final = 1 << 30


class VLLMSampler:
    """Continuous batching through vLLM; one engine per process."""

    def __init__(
        self,
        checkpoint: str,
        config: VLLMConfig,
        *,
        max_sequence_tokens: int,
        num_threads: int = 1,
        policy_version: int = 0,
        gpu_share: float = 1.0,
        sleeps: bool = False,
    ) -> None:
        """Start the engine; takes some ten seconds, most of them imports.

        Args:
            checkpoint: folder of a Transformers checkpoint; no tokenizer is read.
            max_sequence_tokens: longest prompt and response together.
            gpu_share: of the GPU, where others have the rest; it starts only where that is free.
            sleeps: make `sleep` possible, on GPUs.
        """
        _set_environment(num_threads)
        from vllm.engine.arg_utils import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        self._version = policy_version
        self._max_positions = max_sequence_tokens
        self._shapes = checkpoint_shapes(checkpoint)
        self._num_requests = 0
        self._receiver = WeightReceiver()
        self._engine = LLMEngine.from_engine_args(
            EngineArgs(
                model=checkpoint,
                skip_tokenizer_init=True,
                dtype="float32",
                enforce_eager=True,
                max_model_len=max_sequence_tokens,
                max_num_seqs=config.max_num_seqs,
                # A prompt cut between two engine steps rewinds its random generator, which CPU
                # generators cannot do.
                enable_chunked_prefill=False,
                max_num_batched_tokens=config.max_step_tokens(max_sequence_tokens),
                kv_cache_memory_bytes=int(config.kv_cache_gib * _GIB),
                gpu_memory_utilization=min(gpu_share, MOST_GPU_SHARE),
                enable_sleep_mode=sleeps,
                # After temperature and nucleus: the distribution the token was drawn from.
                logprobs_mode="processed_logprobs",
                disable_log_stats=True,
            )
        )

    @property
    def policy_version(self) -> int:
        """Version of the weights that sample now."""
        return self._version

    def generate(
        self, requests: Sequence[SampleRequest], params: SamplingParams, stop_ids: Sequence[int]
    ) -> list[Rollout]:
        """See `moss.sampling.Sampler.generate`."""
        return in_order(self.stream(requests, params, stop_ids))

    def stream(
        self, requests: Sequence[SampleRequest], params: SamplingParams, stop_ids: Sequence[int]
    ) -> Iterator[tuple[int, Rollout]]:
        """See `moss.sampling.StreamingSampler.stream`."""
        from vllm import SamplingParams as VLLMSamplingParams

        check_requests(requests, params, max_positions=self._max_positions)
        rows = {str(self._num_requests + row): row for row in range(len(requests))}
        self._num_requests += len(requests)
        for name, request in zip(rows, requests, strict=True):
            drawn = VLLMSamplingParams(
                temperature=params.temperature,
                top_p=params.top_p,
                max_tokens=token_limit(request, params),
                seed=request.seed,
                stop_token_ids=list(stop_ids),
                ignore_eos=True,
                logprobs=0,
                detokenize=False,
            )
            self._engine.add_request(name, {"prompt_token_ids": list(request.prompt_ids)}, drawn)
        try:
            while rows:
                ended = [output for output in self._engine.step() if output.finished]
                # The engine lists what ends in one step in an order of its own.
                for output in sorted(ended, key=lambda output: rows[output.request_id]):
                    row = rows.pop(output.request_id)
                    yield row, self._rollout(requests[row], output)
        finally:
            self._engine.abort_request(list(rows))

    def push_weights(self, file: WeightFile) -> None:
        """See `moss.sampling.Sampler.push_weights`."""
        check_newer(file, current=self._version)
        weights = read_weights(file)
        check_fit(weights, self._shapes, version=file.version)
        self._version = NO_WEIGHTS
        self._engine.collective_rpc(self._receiver.receive, args=(weights, file.version))
        if not self._engine.reset_prefix_cache():
            raise WeightSyncError(
                f"vLLM kept its prefix cache after weights version {file.version}; requests were "
                "still running during the push"
            )
        check_probe(self, file)
        self._version = file.version

    def sleep(self, level: int) -> None:
        """Free the GPU: the cache, and the weights, which level 1 copies to the node's memory.

        Read in vLLM's source, not run: its CPU build ignores sleep.
        """
        if level > 1:
            self._version = NO_WEIGHTS
        self._engine.sleep(level)

    def wake_up(self) -> None:
        """Take the GPU again; after level 2 the weights are none until a push."""
        self._engine.wake_up()

    def close(self) -> None:
        """Stop the engine and free its cache."""
        self._engine.engine_core.shutdown()

    def _rollout(self, request: SampleRequest, output: RequestOutput) -> Rollout:
        (completion,) = output.outputs
        ids = list(completion.token_ids)
        return Rollout(
            prompt_ids=list(request.prompt_ids),
            response_ids=ids,
            logprobs=[
                float(entry[token].logprob)
                for token, entry in zip(ids, completion.logprobs, strict=True)
            ],
            policy_version=self._version,
            finish_reason=_finish_reason(completion.finish_reason),
        )


def checkpoint_shapes(checkpoint: str) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor in a checkpoint folder's safetensors files.

    Raises:
        DataError: the folder holds none.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for file in sorted(Path(checkpoint).glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  not a mapping
                shapes[name] = tuple(tensors.get_slice(name).get_shape())
    if not shapes:
        raise DataError(f"{checkpoint} holds no safetensors file; check the path of the policy")
    return shapes


def _set_environment(num_threads: int) -> None:
    """vLLM and torch read these when they are first imported or first used."""
    os.environ.update(
        OMP_NUM_THREADS=str(num_threads),
        VLLM_CPU_OMP_THREADS_BIND="nobind",
        VLLM_ENABLE_V1_MULTIPROCESSING="0",
        VLLM_NO_USAGE_STATS="1",
        VLLM_LOGGING_LEVEL=os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
        HF_HUB_OFFLINE="1",
        # The sampler is compiled even with enforce_eager: 20 s at the first logprob.
        TORCHDYNAMO_DISABLE="1",
    )
    torch.set_num_threads(num_threads)


def _finish_reason(reason: str | None) -> FinishReason:
    if reason == "stop":
        return "stop"
    if reason == "length":
        return "length"
    raise DataError(f"vLLM ended a request with reason {reason!r}, expected 'stop' or 'length'")
