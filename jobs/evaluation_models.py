"""Runs the checkpoints that an evaluation compares: plain responses, and turns with tools.

Generation happens in the job's own process, on `generation.device`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from moss.chat import Conversation
from moss.chat_rendering import ChatRenderer
from moss.config.evaluation import EvaluateConfig, GenerationConfig
from moss.config.ppo import SamplingParams
from moss.config.serve import TurnConfig
from moss.errors import MossError
from moss.evaluation.prompts import ToolQuery
from moss.evaluation.tool_turns import ARMS, Arm, ToolTurn
from moss.forward import evaluate_logprobs
from moss.lineage import shared_folder
from moss.models import PreferenceModel, load_policy
from moss.quality import check_tags
from moss.recipes import stable_int
from moss.rollouts import Rollout, RolloutBatch, SampleRequest
from moss.sampling import TransformersSampler
from moss.scoring import score_sequences
from moss.storage import join
from moss.tokenizer import MossTokenizer
from moss.tools.base import Tool
from moss.tools.registry import build_tools, close_tools
from moss.types import ToolName
from serve.conversation import collect_turn, walk_turn
from serve.engines import AsyncBatcher

Advance = Callable[[int], None]
"""Told how many more responses or turns are there."""


class EvaluatedModel:
    """One checkpoint that answers."""

    def __init__(self, run_folder: str, config: GenerationConfig) -> None:
        folder = shared_folder(join(run_folder, "checkpoint"))
        tokenizer = MossTokenizer.load(folder)
        model = load_policy(folder).to(config.device)
        self.renderer = ChatRenderer(tokenizer)
        check_tags(folder, self.renderer)
        self.max_positions = int(model.config.max_position_embeddings)
        self.sampler = TransformersSampler(model, pad_id=tokenizer.pad_id)
        self._model, self._pad_id, self._config = model, tokenizer.pad_id, config

    def fits(self, history: Conversation) -> bool:
        """Whether a history, its longest tag and a whole response fit the model's positions."""
        prompt = self.renderer.prompt_ids(history, "moss", 100)
        return len(prompt) + self._config.max_new_tokens <= self.max_positions

    def respond(
        self,
        histories: Mapping[str, Conversation],
        *,
        quality: int | None,
        seed: int,
        advance: Advance,
    ) -> dict[str, str]:
        """Prompt id -> response to each history, sampled with a seed of its own."""
        rollouts = self.sample(
            histories, self.sampling, quality=quality, seed=seed, advance=advance
        )
        return {item: self.text_of(rollout) for item, rollout in rollouts.items()}

    def sample(
        self,
        histories: Mapping[str, Conversation],
        sampling: SamplingParams,
        *,
        quality: int | None,
        seed: int,
        advance: Advance,
    ) -> dict[str, Rollout]:
        """Prompt id -> response as token ids; its seed follows from `seed` and the prompt's id."""
        stops = [self.renderer.end_id("moss"), self.renderer.tokenizer.eos_id]
        sampled: dict[str, Rollout] = {}
        ids = list(histories)
        for start in range(0, len(ids), self._config.batch_size):
            batch = ids[start : start + self._config.batch_size]
            requests = [
                SampleRequest(
                    self.prompt_ids(histories[item], quality), seed=stable_int(seed, item) % 2**31
                )
                for item in batch
            ]
            rollouts = self.sampler.generate(requests, sampling, stops)
            sampled |= dict(zip(batch, rollouts, strict=True))
            advance(len(batch))
        return sampled

    @property
    def sampling(self) -> SamplingParams:
        """How the configured responses are drawn."""
        config = self._config
        return SamplingParams(
            temperature=config.temperature,
            top_p=config.top_p,
            max_new_tokens=config.max_new_tokens,
        )

    def prompt_ids(self, history: Conversation, quality: int | None) -> list[int]:
        """What a response goes on from."""
        return self.renderer.prompt_ids(history, "moss", quality)

    def text_of(self, rollout: Rollout) -> str:
        """A response as its reader sees it."""
        return self.renderer.decode_section(rollout.response_ids, "moss")

    def logprobs(self, rollouts: Sequence[Rollout]) -> list[float]:
        """log pi(y|x) of each response at temperature 1, nats."""
        batch = RolloutBatch.from_rollouts(rollouts, pad_id=self._pad_id)
        logprobs_BT = evaluate_logprobs(
            self._model, batch, temperature=1.0, max_rows=self._config.batch_size
        )
        return [float(logprob) for logprob in logprobs_BT.sum(1)]


class Scorer:
    """The preference model."""

    def __init__(self, run_folder: str, config: GenerationConfig) -> None:
        folder = shared_folder(join(run_folder, "checkpoint"))
        self.renderer = ChatRenderer(MossTokenizer.load(folder))
        self._model = PreferenceModel.load(folder).eval().to(config.device)
        self.max_positions = int(self._model.body.config.max_position_embeddings)
        self._token_budget = config.score_token_budget

    def score(
        self, histories: Mapping[str, Conversation], responses: Mapping[str, str]
    ) -> list[float]:
        """Score of each response as the untagged reply to its history, in the histories' order."""
        sequences = []
        for prompt_id, history in histories.items():
            *earlier, last = history.turns
            turns = (*earlier, replace(last, moss=responses[prompt_id], quality=None))
            sequences.append(self.renderer.render(Conversation(history.meta, turns)).ids)
        return self.score_ids(sequences)

    def score_ids(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        """Score of each rendered conversation."""
        scores = score_sequences(self._model, sequences, token_budget=self._token_budget)
        return [float(score) for score in scores]


def walk_tool_turns(
    model: EvaluatedModel, queries: Sequence[ToolQuery], config: EvaluateConfig, advance: Advance
) -> list[ToolTurn]:
    """Every query in every arm, through the loop that the chat service runs.

    Only the tools that are measured are built: a call to another one gives no result.
    """
    measured = config.tools.model_copy(update={"enabled": config.tool_evaluation.tools})
    return asyncio.run(_walk_all(model, queries, config, build_tools(measured), advance))


async def _walk_all(
    model: EvaluatedModel,
    queries: Sequence[ToolQuery],
    config: EvaluateConfig,
    tools: Mapping[ToolName, Tool],
    advance: Advance,
) -> list[ToolTurn]:
    limit = asyncio.Semaphore(config.tool_evaluation.num_concurrent)
    batcher = AsyncBatcher(
        model.sampler,
        max_positions=model.max_positions,
        max_batch=config.tool_evaluation.num_concurrent,
    )

    async def walk(query: ToolQuery, arm: Arm) -> ToolTurn:
        async with limit:
            turn = await _walk(model, batcher, tools, query, arm, config)
            advance(1)
            return turn

    try:
        return list(await asyncio.gather(*(walk(query, arm) for arm in ARMS for query in queries)))
    finally:
        await close_tools(tools)


async def _walk(
    model: EvaluatedModel,
    batcher: AsyncBatcher,
    tools: Mapping[ToolName, Tool],
    query: ToolQuery,
    arm: Arm,
    config: EvaluateConfig,
) -> ToolTurn:
    limits = config.tool_evaluation
    settings = TurnConfig(
        quality=config.tool_quality,
        enforce_switches=arm != "off_unenforced",
        temperature=0.0,
        max_thought_tokens=limits.max_thought_tokens,
        max_command_tokens=limits.max_command_tokens,
        max_reply_tokens=config.generation.max_new_tokens,
        max_calls=config.tools.max_calls,
    )
    start = Conversation(query.meta(limits.meta_version, is_on=arm == "on"), ())
    events = walk_turn(batcher, tools, model.renderer, start, query.question.text, settings)
    try:
        outcome = await collect_turn(events)
    except MossError as error:  # a turn that cannot be walked is a result, not the end
        failure = f"{type(error).__name__}: {error}"
        return ToolTurn(query, arm, wanted=(), executed=(), reply="", failure=failure)
    return ToolTurn(
        query,
        arm,
        wanted=outcome.wanted,
        executed=tuple(call.result for call in outcome.calls),
        reply=outcome.turn.moss,
    )
