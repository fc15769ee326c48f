"""Responses sampled from published policy weights, by vLLM or Transformers."""

from __future__ import annotations

from collections.abc import Sequence
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


class RolloutActor:
    """One sampler; `load` comes first, then weights, then responses."""

    def __init__(self, actor: ActorConfig) -> None:
        set_threads(actor.num_threads)
        self._actor = actor

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
        self._sampler.push_weights(file)
        return self._sampler.policy_version

    def sleep(self) -> None:
        """Free the device for others until `wake_up`.

        Raises:
            EngineSleepError: the engine failed to.
        """
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
    ) -> list[Rollout]:
        """One response per request, from exactly the weights that are asked for.

        Args:
            stop_ids: end a reply; where tools run, every end marker ends a section.
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
        if self._tool_rollouts is not None:
            return self._tool_rollouts.generate(requests, params)
        return self._sampler.generate(requests, params, stop_ids)

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
