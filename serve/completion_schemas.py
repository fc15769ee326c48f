"""Body of POST /v1/completions, OpenAI's older form: text in, its continuation out."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from serve.schemas import StreamOptions

_MAX_PROMPTS = 16
_MAX_STOPS = 4
_Stop = Annotated[str, Field(min_length=1, max_length=100)]


class CompletionRequest(BaseModel):
    """As `serve.schemas.ChatRequest`: bounded, unknown keys ignored, some refused by name."""

    model: str = Field("", max_length=200)
    prompt: str | Annotated[list[str], Field(min_length=1, max_length=_MAX_PROMPTS, fail_fast=True)]
    """One text, or several, each answered by a choice of its own, one after the other. An empty
    one begins a document."""
    max_tokens: int | None = Field(16, ge=1, le=65_536)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: _Stop | Annotated[list[_Stop], Field(max_length=_MAX_STOPS, fail_fast=True)] | None = None
    """Texts before which the continuation ends."""
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int | None = None
    best_of: int | None = None
    echo: bool | None = None
    logprobs: int | None = None
    suffix: str | None = None

    @property
    def prompts(self) -> list[str]:
        """All texts to continue."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt

    @property
    def stops(self) -> tuple[str, ...]:
        """All texts to stop at."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def unsupported(self) -> str | None:
        """A parameter whose value this service cannot honor."""
        values = {
            "n": self.n not in (None, 1), "best_of": self.best_of not in (None, 1),
            "echo": bool(self.echo), "logprobs": self.logprobs is not None,
            "suffix": bool(self.suffix),
        }  # fmt: skip
        return next((name for name, is_asked in values.items() if is_asked), None)
