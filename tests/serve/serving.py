"""What the tests of the service build it from."""

from __future__ import annotations

from moss.chat_rendering import ChatRenderer
from serve.engines import Engine
from serve.model_router import ModelRoute, ModelRouter, ServedModel


def route(
    name: str, engine: Engine, renderer: ChatRenderer, *, quality: int | None = 100
) -> ModelRoute:
    """A model of a given name."""
    return ModelRoute(ServedModel(name, "digest", 1), engine, renderer, "tiny", quality)


def one_model(engine: Engine, renderer: ChatRenderer) -> ModelRouter:
    """MOSS-PAT alone."""
    return ModelRouter([route("MOSS-PAT", engine, renderer)])
