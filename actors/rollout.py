"""Responses sampled from published policy weights, by vLLM or Transformers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from actors.model_process import node_id, set_threads
from moss.config.ppo import RolloutConfig, SamplingParams
from moss.config.ppo_actors import ActorConfig
from moss.errors import WeightSyncError

if TYPE_CHECKING:
    from moss.engine_sleep import SleepyEngine
    from moss.rollouts import Rollout, SampleRequest
    from moss.tool_rollouts import ToolRollouts
    from moss.weight_files import WeightFile


@dataclass(frozen=True, slots=True)
class Part:
    """One of several nearly equal parts."""

    number: int = 0
    """Counted from 0."""
    of: int = 1

    def bounds(self, num_items: int) -> tuple[int, int]:
        """Where the part begins and ends among items in their order."""
        return num_items * self.number // self.of, num_items * (self.number + 1) // self.of


WHOLE = Part()


@dataclass(slots=True)
class _Stream:
    """Responses that are being sampled."""

    asked: tuple[object, ...] = ()
    """What they answer."""
    ended: Iterator[tuple[int, Rollout]] = field(default_factory=lambda: iter(()))
    num_taken: int = 0

    def take(self, count: int) -> dict[int, Rollout]:
        """The next responses to end, by their rows."""
        self.num_taken += count
        return dict(islice(self.ended, count))


class RolloutActor:
    """One sampler; `load` comes first, then weights, then responses."""

    def __init__(self, actor: ActorConfig) -> None:
        set_threads(actor.num_threads)
        self._actor = actor
        self._stream = _Stream()

    def node(self) -> str:
        """The node that this actor sits on."""
        return node_id()

    def load(self, checkpoint: str, config: RolloutConfig, *, pad_id: int) -> None:
        """Start the engine that `config` names, and what runs tools in rollouts.

        Raises:
            DataError: the folder holds no checkpoint.
            ConfigError: the room for tool results is too small.
        """
        from moss.engine_sleep import EngineGate

        self._sampler = self._start(checkpoint, config, pad_id)
        self._gate = EngineGate(self._sampler, level=config.sleep_level)
        self._tool_rollouts = self._start_tools(checkpoint, config)

    def receive_weights(self, file: WeightFile) -> int:
        """Replace the weights; returns the version that samples from now on.

        Raises:
            WeightSyncError: the weights are stale, altered or of another model, or the engine is
                not awake.
        """
        self._gate.require_awake("take weights")
        self._stream = _Stream()  # ends responses that nobody waits for
        self._sampler.push_weights(file)
        return self._sampler.policy_version

    def sleep(self) -> None:
        """Free the device for others until `wake_up`.

        Raises:
            EngineSleepError: the engine failed to.
        """
        self._stream = _Stream()
        self._gate.sleep()

    def wake_up(self) -> None:
        """Take the device again; a push of weights must follow.

        Raises:
            EngineSleepError: the engine failed to.
        """
        self._gate.wake_up()

    def generate(
        self,
        requests: Sequence[SampleRequest],
        params: SamplingParams,
        stop_ids: Sequence[int],
        policy_version: int,
        part: Part = WHOLE,
    ) -> dict[int, Rollout]:
        """One response per request, from exactly the weights that are asked for.

        Args:
            stop_ids: end a reply; where tools run, every end marker ends a section.
            part: of the responses, in the order in which they end. The next part goes on where the
                last one stopped; any other is sampled from the start.
        Returns: responses by the number of their request.
        Raises:
            WeightSyncError: other weights are loaded, or the engine is not awake.
        """
        from moss.sampling import NO_WEIGHTS

        self._gate.require_awake("generate")
        loaded = self._sampler.policy_version
        if loaded != policy_version:
            raise WeightSyncError(
                f"responses of policy version {policy_version} were asked for, version {loaded} is "
                f"loaded ({NO_WEIGHTS} is none yet); push the weights first"
            )
        begin, end = part.bounds(len(requests))
        asked = (list(requests), params, list(stop_ids), policy_version)
        if self._stream.asked != asked or self._stream.num_taken != begin:
            self._stream = _Stream(asked, self._sample(requests, params, stop_ids))
            self._stream.take(begin)
        responses = self._stream.take(end - begin)
        if end == len(requests):
            self._stream.ended = iter(())  # frees what the sampler held for them
        return responses

    def _sample(
        self, requests: Sequence[SampleRequest], params: SamplingParams, stop_ids: Sequence[int]
    ) -> Iterator[tuple[int, Rollout]]:
        if self._tool_rollouts is not None:
            return self._tool_rollouts.stream(requests, params)
        return self._sampler.stream(requests, params, stop_ids)

    def _start_tools(self, checkpoint: str, config: RolloutConfig) -> ToolRollouts | None:
        if not config.tools.max_rounds:
            return None
        from moss.chat_rendering import ChatRenderer
        from moss.tokenizer import MossTokenizer
        from moss.tool_rollouts import ToolRollouts
        from moss.tools.runner import ToolRunner

        runner = ToolRunner(config.tools, concurrency=config.tools.concurrency)
        renderer = ChatRenderer(MossTokenizer.load(checkpoint))
        return ToolRollouts(self._sampler, renderer, runner, config.tools)

    def _start(self, checkpoint: str, config: RolloutConfig, pad_id: int) -> SleepyEngine:
        from moss.sampling import NO_WEIGHTS

        if config.engine == "vllm":
            from moss.sampling_vllm import VLLMSampler

            return VLLMSampler(
                checkpoint,
                config.vllm,
                max_sequence_tokens=config.max_sequence_tokens,
                num_threads=self._actor.num_threads,
                policy_version=NO_WEIGHTS,
                gpu_share=self._actor.num_gpus or 1.0,
                sleeps=config.sleep_level > 0,
            )
        from moss.models import load_policy
        from moss.sampling import TransformersSampler

        policy = load_policy(checkpoint).to(self._actor.device)
        return TransformersSampler(policy, pad_id=pad_id, policy_version=NO_WEIGHTS)
