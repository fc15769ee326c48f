"""Answers in OpenAI's form: whole completions and stream chunks, with a `moss` part."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from moss.chat import Command
from moss.tools.base import FinishedCall
from serve.chat_service import PreparedTurn
from serve.conversation import (
    CallDone,
    CommandsChosen,
    ReplyDelta,
    Thought,
    TurnEvent,
    TurnOutcome,
)
from serve.errors import ApiError
from serve.keeping import Kept
from serve.model_router import ServedModel
from serve.schemas import Include

Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class Answer:
    """Builds every piece of one answer; id, time and model are the same in all of them."""

    model: ServedModel
    include: tuple[Include, ...]
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def completion(self, prepared: PreparedTurn, outcome: TurnOutcome, kept: Kept | None) -> Json:
        """The whole answer."""
        message: Json = {"role": "assistant", "content": outcome.turn.moss}
        message["moss"] = self._moss(prepared, outcome, kept)
        if "inner_thoughts" in self.include:
            message["reasoning_content"] = outcome.turn.inner_thoughts
        return self._envelope("chat.completion") | {
            "choices": [{"index": 0, "message": message, "finish_reason": outcome.finish_reason}],
            "usage": usage(outcome.prompt_tokens, outcome.completion_tokens),
        }

    def first_chunk(self) -> Json:
        """The chunk that carries the role."""
        return self._chunk({"role": "assistant", "content": ""})

    def event_chunks(self, event: TurnEvent) -> list[Json]:
        """Chunks for one event of the turn; none for what was not asked for."""
        match event:
            case ReplyDelta(text):
                return [self._chunk({"content": text})]
            case Thought(text) if "inner_thoughts" in self.include:
                return [self._chunk({"reasoning_content": text})]
            case CommandsChosen(commands, dropped) if "commands" in self.include:
                calls = [_command(item) for item in commands]
                out = [_command(item) for item in dropped]
                return [self._moss_chunk({"type": "commands", "commands": calls, "dropped": out})]
            case CallDone(call):
                return [self._moss_chunk(part) for part in self._call_parts(call)]
        return []

    def last_chunk(self, prepared: PreparedTurn, outcome: TurnOutcome, kept: Kept | None) -> Json:
        """The chunk with the finish reason and the summary of the turn."""
        done: Json = {"type": "done", **self._summary(prepared, kept)}
        return self._chunk({"moss": done}, finish_reason=outcome.finish_reason)

    def usage_chunk(self, outcome: TurnOutcome) -> Json:
        """The extra chunk of `stream_options.include_usage`."""
        counts = usage(outcome.prompt_tokens, outcome.completion_tokens)
        return self._envelope("chat.completion.chunk") | {"choices": [], "usage": counts}

    def _envelope(self, kind: str) -> Json:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model.name}

    def _chunk(self, delta: Mapping[str, object], finish_reason: str | None = None) -> Json:
        choice = {"index": 0, "delta": dict(delta), "finish_reason": finish_reason}
        return self._envelope("chat.completion.chunk") | {"choices": [choice]}

    def _moss_chunk(self, part: Json) -> Json:
        return self._chunk({"moss": part})

    def _moss(self, prepared: PreparedTurn, outcome: TurnOutcome, kept: Kept | None) -> Json:
        parts = [part for call in outcome.calls for part in self._call_parts(call)]
        answer = self._summary(prepared, kept)
        if "commands" in self.include:
            answer["commands"] = [_command(item) for item in outcome.turn.commands]
        for kind in ("result", "reference", "image"):
            if f"{kind}s" in self.include:
                answer[f"{kind}s"] = [part for part in parts if part["type"] == kind]
        return answer

    def _summary(self, prepared: PreparedTurn, kept: Kept | None) -> Json:
        summary: Json = {
            "effective_tools": sorted(prepared.conversation.meta.tools),
            "quality": prepared.config.quality,
        }
        if kept is not None:
            summary |= {"conversation_id": kept.conversation_id, "turn_id": kept.turn_id}
        return summary

    def _call_parts(self, call: FinishedCall) -> list[Json]:
        parts: list[Json] = []
        if "results" in self.include:
            parts.append(
                {
                    "type": "result", **_command(call.command), "ok": call.result.ok,
                    "text": call.result.text, "seconds": round(call.seconds, 4),
                    "flags": list(call.output.flags),
                }
            )  # fmt: skip
        if "references" in self.include:
            pages = enumerate(call.output.references, start=call.first_reference)
            parts += [
                {
                    "type": "reference", "number": number, "title": page.title,
                    "text": page.text, "source": page.source,
                }
                for number, page in pages
            ]  # fmt: skip
        if "images" in self.include:
            parts += [
                {"type": "image", "id": image, "url": f"/app/images/{image}"}
                for image in call.output.images
            ]
        return parts


def usage(prompt_tokens: int, completion_tokens: int) -> Json:
    """Token counts of one answer."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def sse(data: Json) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"


def sse_error(error: ApiError) -> bytes:
    """The event that ends a stream in failure; no `[DONE]` follows."""
    return sse(error.body)


def _command(command: Command) -> Json:
    return {"api": command.api, "argument": command.argument}
