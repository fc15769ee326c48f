"""Body of POST /v1/chat/completions: OpenAI's chat completion with one `moss` object.

`serve.request_fields` says what becomes of fields that are unknown or cannot be honored. Those of a
message are ignored: clients send back the messages that they got, with all that stood in them.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, BeforeValidator, Field

from serve.request_fields import Body, GenerationRequest, at_most, expected, refused
from serve.store import Consent

Include = Literal["commands", "results", "references", "images", "inner_thoughts"]
_ID: Final = r"^[0-9a-f]{32}$"
_MAX_SWITCHES: Final = 16
_MAX_TOOL_ROUNDS: Final = 1
"""The format has one Commands and one Results section in a turn (paper section 8.1)."""


class TextPart(BaseModel):
    """A piece of a message; only text is understood."""

    type: Literal["text"]
    text: str


def _as_parts(value: object) -> object:
    if value is None:
        return []
    if isinstance(value, str):
        return [TextPart(type="text", text=value)]
    if not isinstance(value, list):
        raise expected("a text or a list of text parts")
    return value


class Message(BaseModel):
    """One message of the history."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[tuple[TextPart, ...], Field(fail_fast=True), BeforeValidator(_as_parts)] = ()

    @property
    def text(self) -> str:
        """The message's text."""
        return "".join(part.text for part in self.content)


class StoreOptions(Body):
    """Keep this turn in the user's history (the chat page does; plain API calls are not kept)."""

    conversation_id: str | None = Field(None, pattern=_ID)
    """Continue this conversation; its stored turns are the history, `messages` adds the last."""
    replace_turn: str | None = Field(None, pattern=_ID)
    """Answer beside this turn (regenerate, edit); it stays, as another branch."""
    consent: Consent = "none"
    """What may be collected; never more than the last decision that PUT /app/consent recorded."""


def _one_round(value: object) -> object:
    if isinstance(value, int) and value > _MAX_TOOL_ROUNDS:
        raise expected("0 (no tools) or 1: a turn has one round, of several calls at once")
    return value


class MossOptions(Body):
    """Switches of one request; what is absent takes the service's default."""

    tools: Annotated[dict[str, bool], at_most(_MAX_SWITCHES, "switches")] = Field(
        default_factory=dict
    )
    """Tool name -> on."""
    max_tool_rounds: Annotated[int | None, Field(ge=0), BeforeValidator(_one_round)] = None
    """Times that tools may run in this turn; 0 is `tool_choice: none`."""
    inner_thoughts: bool | None = None
    quality: int | None = Field(None, ge=0, le=100)
    include: Annotated[
        tuple[Include, ...], Field(fail_fast=True), at_most(8, "parts of an answer")
    ] = ("commands", "results", "references", "images")
    """Parts reported beside the reply."""
    store: StoreOptions | None = None


class ChatRequest(GenerationRequest):
    """Body of POST /v1/chat/completions."""

    ignored = GenerationRequest.ignored | {"parallel_tool_calls"}

    messages: list[Message] = Field(min_length=1, fail_fast=True)
    max_tokens: int | None = Field(None, ge=1, le=65_536)
    max_completion_tokens: int | None = Field(None, ge=1, le=65_536)
    tool_choice: Literal["none", "auto"] | None = None
    """`none` beats every switch; the model cannot be forced to call."""
    tools: Annotated[
        None, refused("tools of the client are not run; moss.tools switches the server's own", [])
    ] = None
    functions: Annotated[
        None, refused("functions of the client are not run; moss.tools has the server's tools", [])
    ] = None
    function_call: Annotated[None, refused("use tool_choice", "none", "auto")] = None
    logprobs: Annotated[None, refused("the answer is without probabilities", False)] = None
    top_logprobs: Annotated[None, refused("the answer is without probabilities", 0)] = None
    response_format: Annotated[
        None, refused('the answer is text; {"type": "text"} is accepted', {"type": "text"})
    ] = None
    modalities: Annotated[None, refused('the answer is text; ["text"] is accepted', ["text"])] = (
        None
    )
    moss: MossOptions = Field(default_factory=MossOptions)

    @property
    def allows_tools(self) -> bool:
        """Whether any tool may be on."""
        return self.tool_choice != "none" and self.moss.max_tool_rounds != 0


class RatingRequest(BaseModel):
    """Body of POST /app/turns/{id}/rating."""

    rating: Literal[-1, 0, 1]
    reason: str = Field("", max_length=2_000)
    """Why, such as one of the page's choices."""
    comment: str = Field("", max_length=4_000)
    """In the user's own words."""
