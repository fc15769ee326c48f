"""The chat format: a meta-instruction with tool switches, then turns of five sections.

One rendered turn (paper section 8.1; the layout is that of the released data):

    <|Human|>: What is 12+7?<eoh>
    <|Inner Thoughts|>: This is a calculation.<eot>
    <|Commands|>: Calculate("12+7")<eoc>
    <|Results|>:
    Calculate("12+7") => '19'
    <eor>
    <|MOSS|>: <quality: 100> 12+7 = 19.<eom>

A section without content reads `None`. The quality tag is optional and stands before the reply.

Text that people, tools and models wrote never forges structure: a section header, end marker or
quality tag inside a body is rendered with a backslash after its `<`, and `parse_text` takes that
backslash off again, so rendering and parsing are exact inverses.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from typing import Final

from moss.errors import ChatFormatError
from moss.meta_instruction import MetaInstruction, parse_meta_instruction
from moss.types import QUALITY_LEVELS, SECTIONS, Section

HEADERS: Final[dict[Section, str]] = {
    "human": "<|Human|>:",
    "inner_thoughts": "<|Inner Thoughts|>:",
    "commands": "<|Commands|>:",
    "results": "<|Results|>:",
    "moss": "<|MOSS|>:",
}
END_MARKERS: Final[dict[Section, str]] = {
    "human": "<eoh>",
    "inner_thoughts": "<eot>",
    "commands": "<eoc>",
    "results": "<eor>",
    "moss": "<eom>",
}
NONE: Final = "None"
NO_RESULT: Final = "No result."

_CONTROL = r"\|(?:Human|Inner Thoughts|Commands|Results|MOSS)\|>|eo[a-z]>|quality: ?\d+>"
_BARE_CONTROL = re.compile(rf"<(?:{_CONTROL})")
_TO_ESCAPE = re.compile(rf"<(\\*)({_CONTROL})")
_TO_UNESCAPE = re.compile(rf"<\\(\\*)({_CONTROL})")
_QUALITY_TAG = re.compile(r"\A <quality: (\d+)> ")
_COMMAND = r'([A-Za-z_]\w*)\(("(?:[^"\\\n]|\\.)*")\)'
_COMMAND_PATTERN = re.compile(_COMMAND)
_RESULT_HEAD = re.compile(rf"^{_COMMAND} =>", re.MULTILINE)
_RESULT_TO_ESCAPE = re.compile(rf"^(\\*){_COMMAND} =>", re.MULTILINE)
_RESULT_TO_UNESCAPE = re.compile(rf"^\\(\\*{_COMMAND} =>)", re.MULTILINE)
_INLINE_RESULT_APIS: Final = frozenset({"Calculate", "Text2Image"})
"""APIs whose result stands on the line of its command; all others start a new line."""


@dataclass(frozen=True, slots=True)
class Command:
    """One API call as the model writes it: `Calculate("12+7")`."""

    api: str
    argument: str

    def __str__(self) -> str:
        """The call in the command grammar, its argument as a JSON string."""
        return f"{self.api}({json.dumps(self.argument, ensure_ascii=False)})"


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool answered to one command."""

    command: Command
    text: str
    """Body after `=>` in the tool's own layout, without the separating space or line break."""
    ok: bool = field(default=True, compare=False)
    """False where the tool gave no result; the text then says so in the tool's layout."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One exchange; the sections that hold nothing are None or empty."""

    human: str
    moss: str
    inner_thoughts: str | None = None
    commands: tuple[Command, ...] = ()
    results: tuple[ToolResult, ...] = ()
    quality: int | None = None
    """Preference tag before the reply, one of 0, 20, ..., 100 (paper section 7.2)."""

    def __post_init__(self) -> None:
        if self.inner_thoughts in (NONE, ""):
            object.__setattr__(self, "inner_thoughts", None)
        if self.quality is not None and self.quality not in QUALITY_LEVELS:
            raise ChatFormatError(
                f"quality tag {self.quality} is not one of {', '.join(map(str, QUALITY_LEVELS))}"
            )


@dataclass(frozen=True, slots=True)
class Conversation:
    """A meta-instruction and its turns, oldest first."""

    meta: MetaInstruction
    turns: tuple[Turn, ...]

    def to_json(self) -> str:
        """Compact JSON that `from_json` reads back to an equal conversation."""
        data = asdict(self)
        data["meta"]["tools"] = sorted(self.meta.tools)
        return json.dumps(data, ensure_ascii=False, separators=(",", ":"), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Conversation:
        """Inverse of `to_json`.

        Raises:
            ChatFormatError: the text is not such JSON.
        """
        try:
            data = json.loads(text)
            meta = MetaInstruction(
                version=data["meta"]["version"],
                inner_thoughts=data["meta"]["inner_thoughts"],
                tools=frozenset(data["meta"]["tools"]),
            )
            return cls(meta=meta, turns=tuple(_turn_from_json(turn) for turn in data["turns"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ChatFormatError(f"not a conversation in JSON: {error}: {text[:80]!r}") from error


def _turn_from_json(data: dict[str, object]) -> Turn:
    values = dict(data)
    values["commands"] = tuple(Command(**item) for item in data["commands"])  # type: ignore[attr-defined]
    values["results"] = tuple(
        ToolResult(command=Command(**item["command"]), text=item["text"], ok=item["ok"])
        for item in data["results"]  # type: ignore[attr-defined]
    )
    return Turn(**values)  # type: ignore[arg-type]


def escape(text: str) -> str:
    """Make control strings in free text harmless; `unescape` is the exact inverse."""
    return _TO_ESCAPE.sub(r"<\\\1\2", text)


def unescape(text: str) -> str:
    """Give escaped control strings back as they were written."""
    return _TO_UNESCAPE.sub(r"<\1\2", text)


def format_commands(commands: tuple[Command, ...]) -> str:
    """Body of the Commands section: calls joined by commas, or `None`."""
    return ", ".join(map(str, commands)) or NONE


def parse_commands(text: str) -> tuple[Command, ...]:
    """Read a Commands body with the strict grammar `Name("arg")(, Name("arg"))*` or `None`.

    Raises:
        ChatFormatError: anything else; such text must never reach a tool.
    """
    text = text.strip()
    if text == NONE:
        return ()
    commands: list[Command] = []
    position = 0
    while match := _COMMAND_PATTERN.match(text, position):
        try:
            argument = json.loads(match[2])
            argument.encode()  # a lone surrogate, written as an escape, is no text
        except ValueError as error:
            raise ChatFormatError(f"argument {match[2]!r} is not a quoted string") from error
        commands.append(Command(match[1], argument))
        position = match.end()
        if position == len(text):
            return tuple(commands)
        separator = re.compile(r",\s*").match(text, position)
        if separator is None:
            break
        position = separator.end()
    raise ChatFormatError(f'commands {text[:80]!r} are not of the form Name("argument"), ...')


def format_results(results: tuple[ToolResult, ...]) -> str:
    """Body of the Results section without its line breaks at both ends, or `None`."""
    return "\n".join(_format_result(result) for result in results) or NONE


def _format_result(result: ToolResult) -> str:
    separator = " " if result.command.api in _INLINE_RESULT_APIS else "\n"
    body = _RESULT_TO_ESCAPE.sub(lambda match: "\\" + match[0], result.text)
    return f"{result.command} =>{separator}{body}"


def parse_results(text: str) -> tuple[ToolResult, ...]:
    """Inverse of `format_results`.

    Raises:
        ChatFormatError: text before the first `Name("argument") =>`.
    """
    if text.strip() == NONE:
        return ()
    heads = list(_RESULT_HEAD.finditer(text))
    if not heads or heads[0].start() != 0:
        raise ChatFormatError(f'results {text[:80]!r} do not start with Name("argument") =>')
    results: list[ToolResult] = []
    ends = [head.start() - 1 for head in heads[1:]] + [len(text)]
    for head, end in zip(heads, ends, strict=True):
        body = _RESULT_TO_UNESCAPE.sub(r"\1", text[head.end() + 1 : end])
        command = Command(head[1], json.loads(head[2]))
        results.append(ToolResult(command, body, ok=NO_RESULT not in body))
    return tuple(results)


def section_body(turn: Turn, section: Section) -> str:
    """What stands between a section's header and its end marker, escaped, quality tag excluded."""
    if section == "results" and turn.results:
        return f"\n{escape(format_results(turn.results))}\n"
    text = {
        "human": turn.human,
        "inner_thoughts": turn.inner_thoughts or NONE,
        "commands": format_commands(turn.commands),
        "results": NONE,
        "moss": turn.moss,
    }[section]
    return f" {escape(text)}"


def quality_tag(quality: int) -> str:
    """The tag as it stands between header and reply: ` <quality: 60>`."""
    return f" <quality: {quality}>"


def render_text(conversation: Conversation) -> str:
    """The conversation as text, byte for byte what `parse_text` reads."""
    pieces = [conversation.meta.text]
    for turn in conversation.turns:
        for section in SECTIONS:
            pieces.append(HEADERS[section])
            if section == "moss" and turn.quality is not None:
                pieces.append(quality_tag(turn.quality))
            pieces.append(section_body(turn, section) + END_MARKERS[section] + "\n")
    return "".join(pieces)


def parse_text(text: str) -> Conversation:
    """Exact inverse of `render_text`.

    Raises:
        ChatFormatError: unknown meta-instruction, or a section missing, doubled or out of order.
    """
    start = text.find(HEADERS["human"])
    start = len(text) if start < 0 else start
    meta = parse_meta_instruction(text[:start])
    turns: list[Turn] = []
    position = start
    while position < len(text):
        bodies: dict[Section, str] = {}
        for section in SECTIONS:
            bodies[section], position = _take_section(text, position, section, len(turns) + 1)
        turns.append(_turn_from_bodies(bodies))
    return Conversation(meta, tuple(turns))


def _take_section(text: str, position: int, section: Section, turn: int) -> tuple[str, int]:
    header, end_marker = HEADERS[section], END_MARKERS[section] + "\n"
    if not text.startswith(header, position):
        found = text[position : position + 24]
        raise ChatFormatError(f"turn {turn}: expected section {header!r}, found {found!r}")
    start = position + len(header)
    end = text.find(end_marker, start)
    if end < 0:
        raise ChatFormatError(f"turn {turn}: section {header!r} has no {end_marker.strip()!r}")
    body = text[start:end]
    written = _QUALITY_TAG.sub("", body, count=1) if section == "moss" else body
    if stray := _BARE_CONTROL.search(written):
        raise ChatFormatError(f"turn {turn}: section {header!r} holds a bare {stray[0]!r}")
    return body, end + len(end_marker)


def _turn_from_bodies(bodies: dict[Section, str]) -> Turn:
    moss, quality = bodies["moss"], None
    if tag := _QUALITY_TAG.match(moss):
        quality, moss = int(tag[1]), moss[tag.end() - 1 :]
    texts = {section: unescape(body[1:]) for section, body in bodies.items()}
    return Turn(
        human=texts["human"],
        inner_thoughts=texts["inner_thoughts"],
        commands=parse_commands(texts["commands"]),
        results=parse_results(texts["results"].removesuffix("\n")),
        moss=unescape(moss[1:]),
        quality=quality,
    )
