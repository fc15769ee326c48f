"""Body of POST /v1/completions, OpenAI's older form: text in, its continuation out."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BeforeValidator, Field

from serve.request_fields import GenerationRequest, expected, refused

_MAX_PROMPTS: Final = 16


def _as_prompts(value: object) -> object:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not 1 <= len(value) <= _MAX_PROMPTS:
        raise expected(f"a text or a list of 1 to {_MAX_PROMPTS} texts")
    return value


class CompletionRequest(GenerationRequest):
    """As `serve.schemas.ChatRequest`: bounded, what cannot be honored refused by name."""

    prompt: Annotated[tuple[str, ...], Field(fail_fast=True), BeforeValidator(_as_prompts)]
    """One text, or several, each answered by a choice of its own, one after the other. An empty
    one begins a document."""
    max_tokens: int | None = Field(16, ge=1, le=65_536)
    best_of: Annotated[None, refused("a prompt gets one continuation", 1)] = None
    echo: Annotated[None, refused("the answer is without its prompt", False)] = None
    logprobs: Annotated[None, refused("the answer is without probabilities")] = None
    suffix: Annotated[None, refused("texts are continued at their end", "")] = None
    moss: Annotated[
        None, refused("sections, tools and quality are those of /v1/chat/completions", {})
    ] = None
