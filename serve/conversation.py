"""One turn of the tool-augmented model: thoughts, commands, tools, reply (paper section 8).

Plain async code around the `Engine` protocol: no Ray, no HTTP. The switches are those of the
conversation's meta-instruction, and they are enforced here, because the model is not a security
boundary: it calls disabled tools now and then (paper section 8.3). A call runs only if its tool is
switched on; commands that do not parse run nothing, and the reply is written all the same.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field, replace

from moss.chat import Command, Conversation, ToolResult, Turn, parse_commands
from moss.chat_rendering import ChatRenderer
from moss.config.serve import TurnConfig
from moss.errors import ChatFormatError
from moss.tools.base import FinishedCall, Tool
from moss.tools.registry import run_commands
from moss.types import SECTIONS, TOOL_OF_API, Section, ToolName
from serve.engines import Engine, GenerateParams
from serve.history import fit_history
from serve.section_stream import SectionStream
from serve.text_stream import StopCut


@dataclass(frozen=True, slots=True)
class Thought:
    """The model's inner thoughts of this turn."""

    text: str


@dataclass(frozen=True, slots=True)
class CommandsChosen:
    """What will run, and what was dropped because its tool is off or unknown."""

    commands: tuple[Command, ...]
    dropped: tuple[Command, ...]


@dataclass(frozen=True, slots=True)
class CallDone:
    """One tool call ended."""

    call: FinishedCall


@dataclass(frozen=True, slots=True)
class ReplyDelta:
    """The next characters of the reply."""

    text: str


@dataclass(slots=True)
class TurnOutcome:
    """A finished turn, and what the model wrote before switches were enforced."""

    turn: Turn
    finish_reason: str = "stop"
    """`stop`, or `length` where the reply hit its limit."""
    raw_thoughts: str = ""
    raw_commands: str = ""
    """Text of the Commands section as generated; empty where it was not generated."""
    wanted: tuple[Command, ...] = ()
    """Commands parsed from `raw_commands`, before any was dropped."""
    commands_parsed: bool = True
    """False where `raw_commands` did not follow the grammar."""
    dropped: tuple[Command, ...] = ()
    calls: tuple[FinishedCall, ...] = ()
    prompt_tokens: int = 0
    """Tokens of the reply's prompt, the earlier sections of this turn included."""
    completion_tokens: int = 0
    """Generated tokens of all sections."""
    seconds: float = 0.0
    part_s: dict[str, float] = field(default_factory=dict)
    """Seconds of its parts: thoughts, commands, tools, reply; those that it had."""


@dataclass(frozen=True, slots=True)
class TurnFinished:
    """The last event of every turn."""

    outcome: TurnOutcome


TurnEvent = Thought | CommandsChosen | CallDone | ReplyDelta | TurnFinished


@dataclass(slots=True)
class _Walk:
    """State of one turn."""

    engine: Engine
    renderer: ChatRenderer
    config: TurnConfig
    conversation: Conversation
    """The turns so far and, last, the one being written."""
    outcome: TurnOutcome
    stops: tuple[str, ...] = ()
    """Texts before which the reply ends."""
    started: float = field(default_factory=time.monotonic)

    def update_turn(self, **changes: object) -> None:
        """Replace parts of the last turn."""
        *earlier, last = self.conversation.turns
        turn = replace(last, **changes)  # type: ignore[arg-type]
        self.conversation = replace(self.conversation, turns=(*earlier, turn))

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Keep how long a part of the turn took."""
        started = time.monotonic()
        yield
        self.outcome.part_s[part] = time.monotonic() - started

    async def generate(self, section: Section, max_new_tokens: int) -> AsyncGenerator[str]:
        """Text of one section as it grows; counts tokens and sets the finish reason."""
        is_reply = section == "moss"
        quality = self.config.quality if is_reply else None
        # Short contexts: the answer may take at most half of them.
        max_new_tokens = min(max_new_tokens, self.engine.max_positions // 2)
        self.conversation, prompt_ids = fit_history(
            self.renderer, self.conversation, section, quality=quality,
            max_prompt_tokens=self.engine.max_positions - max_new_tokens,
        )  # fmt: skip
        params = GenerateParams(
            max_new_tokens=max_new_tokens,
            stop_ids=stop_ids(self.renderer),
            temperature=self.config.temperature if is_reply else 0.0,
            top_p=self.config.top_p if is_reply else 1.0,
            seed=self.config.seed,
        )
        stream = SectionStream(self.renderer, section)
        cut = StopCut(self.stops if is_reply else ())
        self.outcome.prompt_tokens = len(prompt_ids)
        deltas = self.engine.generate(prompt_ids, params)
        async with aclosing(deltas):
            async for delta in deltas:
                self.outcome.completion_tokens += len(delta.ids)
                if delta.finish_reason is not None:
                    self.outcome.finish_reason = delta.finish_reason
                if text := cut.push(stream.push(delta.ids)):
                    yield text
                if cut.is_stopped:
                    break
        if text := cut.push(stream.finish(), is_last=True):
            yield text
        if cut.is_stopped:
            self.outcome.finish_reason = "stop"


def stop_ids(renderer: ChatRenderer) -> tuple[int, ...]:
    """Every end marker stops a section: a model that ends with the wrong one has ended too."""
    ends = {renderer.end_id(section) for section in SECTIONS}
    return tuple(sorted(ends | {renderer.tokenizer.eos_id}))


async def walk_turn(
    engine: Engine,
    tools: Mapping[ToolName, Tool],
    renderer: ChatRenderer,
    conversation: Conversation,
    user_text: str,
    config: TurnConfig,
    *,
    stops: tuple[str, ...] = (),
) -> AsyncGenerator[TurnEvent]:
    """Answer `user_text`; the last event is `TurnFinished`.

    Args:
        conversation: the turns so far; its meta-instruction says which tools are on.
        tools: what can run; a tool that is off in the meta-instruction never does.
        stops: texts that end the reply, and are no part of it.
    Raises:
        ContextLengthError: the message alone is too long for the model.
    """
    turn = Turn(human=user_text, moss="")
    walk = _Walk(
        engine, renderer, config,
        replace(conversation, turns=(*conversation.turns, turn)), TurnOutcome(turn), stops,
    )  # fmt: skip
    await _think(walk)
    await _choose_commands(walk)
    last = walk.conversation.turns[-1]
    if last.inner_thoughts:
        yield Thought(last.inner_thoughts)
    if last.commands or walk.outcome.dropped:
        yield CommandsChosen(last.commands, walk.outcome.dropped)
    async for call in _run_tools(walk, tools):
        yield CallDone(call)
    reply = ""
    with walk.timed("reply"):
        async with aclosing(walk.generate("moss", config.max_reply_tokens)) as texts:
            async for text in texts:
                reply += text
                yield ReplyDelta(text)
    walk.update_turn(moss=reply, quality=config.quality)
    walk.outcome.turn = walk.conversation.turns[-1]
    walk.outcome.seconds = time.monotonic() - walk.started
    yield TurnFinished(walk.outcome)


async def collect_turn(events: AsyncIterator[TurnEvent]) -> TurnOutcome:
    """The outcome of a turn, without its stream."""
    outcome: TurnOutcome | None = None
    async for event in events:
        if isinstance(event, TurnFinished):
            outcome = event.outcome
    assert outcome is not None, "walk_turn ends with TurnFinished"
    return outcome


async def _think(walk: _Walk) -> None:
    """Write the Inner Thoughts section; None where they are switched off."""
    if walk.config.enforce_switches and not walk.conversation.meta.inner_thoughts:
        return
    with walk.timed("thoughts"):
        text = await _collect(walk.generate("inner_thoughts", walk.config.max_thought_tokens))
    walk.outcome.raw_thoughts = text
    if walk.outcome.finish_reason == "stop":  # a cut thought would end nowhere
        walk.update_turn(inner_thoughts=text.strip())


async def _choose_commands(walk: _Walk) -> None:
    """Write the Commands section and enforce the switches on it."""
    enabled = walk.conversation.meta.tools
    if walk.config.enforce_switches and not enabled:
        return
    with walk.timed("commands"):
        text = await _collect(walk.generate("commands", walk.config.max_command_tokens))
    outcome = walk.outcome
    outcome.raw_commands = text
    try:
        if outcome.finish_reason != "stop":
            raise ChatFormatError("the section was cut at its limit")
        outcome.wanted = parse_commands(text)
    except ChatFormatError:
        outcome.commands_parsed = False
        return
    allowed = [item for item in outcome.wanted if TOOL_OF_API.get(item.api) in enabled]
    kept = tuple(allowed[: walk.config.max_calls])
    outcome.dropped = tuple(item for item in outcome.wanted if item not in kept)
    if not walk.config.enforce_switches:
        walk.update_turn(commands=outcome.wanted)
        return
    walk.update_turn(commands=kept)
    if outcome.wanted and not kept:  # thoughts about a tool that will not run mislead the reply
        walk.update_turn(inner_thoughts=None)


async def _run_tools(walk: _Walk, tools: Mapping[ToolName, Tool]) -> AsyncGenerator[FinishedCall]:
    """Run the commands whose tools are on and write the Results section."""
    commands = walk.conversation.turns[-1].commands
    if not commands:
        return
    enabled = walk.conversation.meta.tools
    usable = {name: tool for name, tool in tools.items() if name in enabled}
    with walk.timed("tools"):
        calls = await run_commands(usable, commands, max_calls=walk.config.max_calls)
    walk.outcome.calls = calls
    results: tuple[ToolResult, ...] = tuple(call.result for call in calls)
    walk.update_turn(results=results)
    for call in calls:
        yield call


async def _collect(texts: AsyncGenerator[str]) -> str:
    async with aclosing(texts):
        return "".join([text async for text in texts])
