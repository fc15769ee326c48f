"""Responses whose tools run while they are written (paper section 8.1), token in, token out.

A response begins with the turn's thoughts or commands, whichever the conversation's switches leave
to the policy first. At the end of a section the next header is inserted; at the end of Commands the
calls run, by the code that also serves and synthesizes, and their Results and the reply's header
are inserted. What the policy wrote is never tokenized again: each section is sampled after exactly
the tokens before it. What was inserted carries no loss (`Rollout.inserted`).

As in the service, every end marker ends a section; commands that do not parse run nothing, and
Results then read `None`. Calls to tools that are off or unknown, that fail or are late, read
`No result.` in the tool's layout; of more than `max_calls`, the rest is dropped. A section cut at
its limit ends the response.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from moss import metrics
from moss.chat import Command, ToolResult, Turn, parse_commands
from moss.chat_rendering import ChatRenderer
from moss.config.rollout import SamplingParams, ToolRolloutConfig
from moss.errors import ChatFormatError, ConfigError
from moss.rollouts import FinishReason, Opening, Rollout, SampleRequest
from moss.tools.registry import no_result
from moss.tools.runner import ToolRunner, ToolTurn
from moss.types import SECTIONS, Section

if TYPE_CHECKING:
    from moss.sampling import Sampler

_REPLY_ONLY = Opening("moss", frozenset())


@dataclass(slots=True)
class _Draft:
    """A response as it grows."""

    request: SampleRequest
    opening: Opening
    section: Section
    """The one being written."""
    reply_tokens_left: int
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    inserted: list[tuple[int, int]] = field(default_factory=list)
    written: list[int] = field(default_factory=list)
    """Ids of the section sampled last."""
    commands: tuple[Command, ...] | None = None
    """Commands that wait for their results; None where the response waits for none."""
    num_sampled: int = 0
    """Sections sampled."""
    num_rounds: int = 0
    num_calls: int = 0
    num_failed_calls: int = 0
    finish_reason: FinishReason | None = None

    def take(self, rollout: Rollout) -> None:
        """Append what the policy wrote."""
        self.written = rollout.response_ids
        self.ids += rollout.response_ids
        self.logprobs += rollout.logprobs
        self.num_sampled += 1
        if self.section == "moss":
            self.reply_tokens_left -= len(rollout.response_ids)
        if rollout.finish_reason == "length":
            self.finish_reason = "length"

    def insert(self, ids: Sequence[int], *, upto: Section) -> None:
        """Append what the policy did not write, up to the body of a section."""
        self.inserted.append((len(self.ids), len(self.ids) + len(ids)))
        self.ids += ids
        self.logprobs += [0.0] * len(ids)
        self.section, self.commands = upto, None


class ToolRollouts:
    """Samples responses section by section, over any sampler.

    Raises (constructor):
        ConfigError: `max_results_tokens` holds not even the headers.
    """

    def __init__(
        self,
        sampler: Sampler,
        renderer: ChatRenderer,
        runner: ToolRunner,
        config: ToolRolloutConfig,
    ) -> None:
        self._sampler, self._renderer = sampler, renderer
        self._runner, self._config = runner, config
        self._ends = sorted(
            {renderer.end_id(section) for section in SECTIONS} | {renderer.tokenizer.eos_id}
        )
        self._header_tokens = check_room(renderer, config)

    def stream(
        self, requests: Sequence[SampleRequest], params: SamplingParams
    ) -> Iterator[tuple[int, Rollout]]:
        """Each request's row and response, in the order in which they end.

        Raises:
            DataError: a prompt leaves no room in the model's positions.
        """
        drafts = {row: self._begin(request, params) for row, request in enumerate(requests)}
        version = self._sampler.policy_version
        while drafts:
            segments = [self._next_segment(draft) for draft in drafts.values()]
            rollouts = self._sampler.generate(segments, params, self._ends)
            for (row, draft), rollout in zip(list(drafts.items()), rollouts, strict=True):
                draft.take(rollout)
                if draft.finish_reason is None:
                    self._end_section(draft)
                if draft.finish_reason is not None:
                    yield row, _finished(drafts.pop(row), version)
            self._run_tools([draft for draft in drafts.values() if draft.commands is not None])

    def _begin(self, request: SampleRequest, params: SamplingParams) -> _Draft:
        opening = request.opening or _REPLY_ONLY
        return _Draft(request, opening, opening.section, params.max_new_tokens)

    def _next_segment(self, draft: _Draft) -> SampleRequest:
        limits = {
            "inner_thoughts": self._config.max_thought_tokens,
            "commands": self._config.max_command_tokens,
        }
        request = draft.request
        return SampleRequest(
            prompt_ids=request.prompt_ids + draft.ids,
            seed=_segment_seed(request.seed, draft.num_sampled),
            max_new_tokens=limits.get(draft.section, draft.reply_tokens_left),
        )

    def _end_section(self, draft: _Draft) -> None:
        """Decide what follows the section that a draft has just ended."""
        if draft.section == "inner_thoughts":
            upto: Section = "commands" if draft.opening.tools else "moss"
            draft.insert(self._renderer.bridge_ids(Turn("", ""), draft.section, upto), upto=upto)
        elif draft.section == "commands" or self._is_further_round(draft):
            draft.commands = self._written_commands(draft)
        else:
            draft.finish_reason = "stop"

    def _is_further_round(self, draft: _Draft) -> bool:
        return (
            draft.written[-1] == self._renderer.end_id("commands")
            and bool(draft.opening.tools)
            and draft.num_rounds < self._config.max_rounds
            and draft.reply_tokens_left > 0
            and bool(self._written_commands(draft))
        )

    def _written_commands(self, draft: _Draft) -> tuple[Command, ...]:
        """The commands of the last section; none where they do not parse."""
        text = self._renderer.decode_section(draft.written[:-1], "commands")
        try:
            return parse_commands(text)[: self._config.max_calls]
        except ChatFormatError:
            return ()

    def _run_tools(self, drafts: Sequence[_Draft]) -> None:
        """Run the commands of drafts that wait for them and insert their Results."""
        calling = [draft for draft in drafts if draft.commands]
        turns = [ToolTurn(draft.commands or (), draft.opening.tools) for draft in calling]
        finished = self._runner.run(turns, timeout_s=self._config.timeout_s)
        for draft, calls in zip(calling, finished, strict=True):
            commands = draft.commands or ()
            draft.num_rounds += 1
            draft.num_calls += len(commands)
            draft.num_failed_calls += len(commands) - sum(c.output.ok for c in calls or ())
            results = None if calls is None else tuple(call.result for call in calls)
            draft.insert(self._results_ids(commands, results), upto="moss")
        for draft in drafts:
            if draft.commands is not None:
                draft.insert(self._results_ids((), ()), upto="moss")

    def _results_ids(
        self, commands: tuple[Command, ...], results: tuple[ToolResult, ...] | None
    ) -> list[int]:
        """Results and the reply's header; without results where these are late or too long."""
        turn = Turn("", "", commands=commands)
        room = self._config.max_results_tokens - self._header_tokens
        without = tuple(no_result(command) for command in commands)
        for shown in (results, without, ()):
            if shown is not None:
                ids = self._renderer.bridge_ids(replace(turn, results=shown), "commands", "moss")
                if len(ids) <= room:
                    return ids
        raise AssertionError("Results without any result fit, as the constructor checked")


def check_room(renderer: ChatRenderer, config: ToolRolloutConfig) -> int:
    """Tokens of the Commands header between thoughts and commands.

    Raises:
        ConfigError: `max_results_tokens` holds not even the headers.
    """
    empty = Turn("", "")
    header = len(renderer.bridge_ids(empty, "inner_thoughts", "commands"))
    least = max(
        header + len(renderer.bridge_ids(empty, "commands", "moss")),
        len(renderer.bridge_ids(empty, "inner_thoughts", "moss")),
    )
    if least > config.max_results_tokens:
        raise ConfigError(
            f"rollout.tools.max_results_tokens={config.max_results_tokens}, but Results "
            f"without any result take {least} tokens; raise it"
        )
    return header


def _finished(draft: _Draft, version: int) -> Rollout:
    assert draft.finish_reason is not None, "sampled to its end"
    return Rollout(
        prompt_ids=list(draft.request.prompt_ids),
        response_ids=draft.ids,
        logprobs=draft.logprobs,
        policy_version=version,
        finish_reason=draft.finish_reason,
        inserted=draft.inserted,
        num_calls=draft.num_calls,
        num_failed_calls=draft.num_failed_calls,
    )


def tool_call_metrics(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Counts of an iteration's tool calls as metrics; empty where no response could call one."""
    if not any(rollout.inserted for rollout in rollouts):
        return {}
    return {
        metrics.ROLLOUT_TOOL_CALLS: float(sum(r.num_calls for r in rollouts)),
        metrics.ROLLOUT_FAILED_CALLS: float(sum(r.num_failed_calls for r in rollouts)),
    }


def _segment_seed(seed: int, segment: int) -> int:
    """Each section draws from a generator of its own."""
    digest = hashlib.sha256(f"{seed}/section/{segment}".encode()).digest()
    return int.from_bytes(digest[:4], "big")
