"""Request bodies of the API: OpenAI's chat completion with one `moss` object, bounded everywhere.

Unknown keys are ignored, as OpenAI-compatible servers do; keys whose meaning this service cannot
honor (`tools`, `n` above one) are refused by name rather than ignored. Lists are read up to their
first fault: to describe a million of them costs seconds and half a gigabyte.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from serve.store import Consent

Include = Literal["commands", "results", "references", "images", "inner_thoughts"]
_ID = r"^[0-9a-f]{32}$"


class TextPart(BaseModel):
    """A piece of a message; only text is understood."""

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One message of the history."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(fail_fast=True)] | None = None

    @property
    def text(self) -> str:
        """The message's text."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class StreamOptions(BaseModel):
    """What the stream holds beside the answer."""

    include_usage: bool = False


class StoreOptions(BaseModel):
    """Keep this turn in the user's history (the chat page does; plain API calls are not kept)."""

    conversation_id: str | None = Field(None, pattern=_ID)
    """Continue this conversation; its stored turns are the history, `messages` adds the last."""
    replace_turn: str | None = Field(None, pattern=_ID)
    """Answer beside this turn (regenerate, edit); it stays, as another branch."""
    consent: Consent = "none"
    """What may be collected; never more than the last decision that PUT /app/consent recorded."""


class MossOptions(BaseModel):
    """Switches of one request; what is absent takes the service's default."""

    model_config = ConfigDict(extra="forbid")

    tools: dict[str, bool] = Field(default_factory=dict, max_length=16)
    """Tool name -> on."""
    inner_thoughts: bool | None = None
    quality: int | None = Field(None, ge=0, le=100)
    include: tuple[Include, ...] = Field(
        ("commands", "results", "references", "images"), max_length=8, fail_fast=True
    )
    """Parts reported beside the reply."""
    store: StoreOptions | None = None


class ChatRequest(BaseModel):
    """Body of POST /v1/chat/completions."""

    model: str = Field("", max_length=200)
    messages: list[Message] = Field(min_length=1, fail_fast=True)
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    max_tokens: int | None = Field(None, ge=1, le=65_536)
    max_completion_tokens: int | None = Field(None, ge=1, le=65_536)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    n: int | None = Field(None, ge=1, le=1)
    tool_choice: Literal["none", "auto"] | None = None
    """`none` beats every switch; the model cannot be forced to call."""
    tools: list[object] | None = Field(None, max_length=0)
    """Tools that the client runs are not supported: this model's tools run at the server."""
    moss: MossOptions = Field(default_factory=MossOptions)


class RatingRequest(BaseModel):
    """Body of POST /app/turns/{id}/rating."""

    rating: Literal[-1, 0, 1]
    reason: str = Field("", max_length=2_000)
    """Why, such as one of the page's choices."""
    comment: str = Field("", max_length=4_000)
    """In the user's own words."""
