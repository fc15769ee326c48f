"""Events of a turn as entries of its request's record."""

from __future__ import annotations

from moss.chat import Command
from moss.tools.base import FinishedCall
from moss.tools.registry import UNAVAILABLE
from moss.types import TOOL_OF_API
from serve.conversation import CallDone, CommandsChosen, ReplyDelta, TurnEvent, TurnFinished
from serve.request_record import RequestRecord, ToolRun


def note_event(record: RequestRecord, event: TurnEvent) -> None:
    """Keep what the event says of time and tools."""
    match event:
        case ReplyDelta():
            record.note_first_token()
        case CommandsChosen(dropped=dropped):
            record.tool_runs += [ToolRun(_tool_of(command), "dropped") for command in dropped]
        case CallDone(call):
            record.tool_runs.append(ToolRun(_tool_of(call.command), _outcome(call), call.seconds))
        case TurnFinished(outcome):
            record.part_s = outcome.part_s


def _tool_of(command: Command) -> str:
    """One of our tools; what else the model wrote as a name is not repeated."""
    return TOOL_OF_API.get(command.api, "unknown")


def _outcome(call: FinishedCall) -> str:
    if call.result.ok:
        return "ok"
    return "unavailable" if UNAVAILABLE in call.output.flags else "no_result"
