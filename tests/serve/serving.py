"""What the tests of the service build it from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import httpx

from moss.chat_rendering import ChatRenderer
from moss.config.serve import ServeChatConfig
from moss.tools.base import Tool
from moss.types import ToolName
from serve.app import build_app
from serve.auth import ApiKeys
from serve.chat_service import ChatService
from serve.engines import Engine
from serve.model_router import ModelRoute, ModelRouter, ServedModel
from serve.store import Store


def route(
    name: str, engine: Engine, renderer: ChatRenderer, *, quality: int | None = 100
) -> ModelRoute:
    """A model of a given name."""
    return ModelRoute(ServedModel(name, "digest", 1), engine, renderer, "tiny", quality)


def one_model(engine: Engine, renderer: ChatRenderer) -> ModelRouter:
    """MOSS-PAT alone."""
    return ModelRouter([route("MOSS-PAT", engine, renderer)])


def service_of(
    models: ModelRouter, tools: Mapping[ToolName, Tool], folder: Path, **config: object
) -> ChatService:
    """The service with a database in `folder`."""
    settings = {"meta_version": "tiny", "turn": {"temperature": 0}} | config
    return ChatService(
        models=models,
        tools=tools,
        store=Store(f"sqlite:///{folder}/chat.sqlite"),
        config=ServeChatConfig.model_validate(settings),
    )


def client_of(service: ChatService, *, keys: str = "") -> httpx.AsyncClient:
    """A client of the service's whole application, without a network."""
    keys_of = ApiKeys.load(service.config.http, {"MOSS_API_KEYS": keys})
    transport = httpx.ASGITransport(build_app(service, keys_of), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://chat.test")
