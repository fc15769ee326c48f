"""What the replica that answers HTTP is built from, in its own process."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from fastapi import FastAPI
from ray import serve as ray_serve
from ray.serve.handle import DeploymentHandle
from sqlalchemy.engine import URL

from moss.chat_rendering import ChatRenderer
from moss.config.serve import ServeChatConfig
from moss.releases import Release, read_release
from moss.tokenizer import MossTokenizer
from moss.types import ToolName
from moss.watched_file import WatchedFile
from serve.app import build_app
from serve.auth import ApiKeys
from serve.chat_model import RemoteEngine
from serve.chat_service import ChatService
from serve.logs import configure_logs
from serve.meters import export_to_ray
from serve.model_router import ModelRoute, ModelRouter, ServedModel
from serve.store import Store
from serve.tool_workers import RemoteTool


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The model to serve, resolved."""

    folder: str
    """Local folder of model and tokenizer that every node reaches."""
    name: str
    version: str
    created_at: str
    """ISO time of its manifest."""
    meta_version: str
    """Meta-instruction it was trained with."""
    quality: int | None
    """Tag its replies are conditioned on by default; None where it was never tagged."""


def engine_deployment(name: str) -> str:
    """Name of a model's engine deployment; Ray Serve's names have no slashes or hashes."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", name)
    return f"ChatModel-{plain}"


def tool_deployment(name: ToolName) -> str:
    """Name of a tool's deployment."""
    return f"Tool-{name}"


def build_edge(
    config: ServeChatConfig,
    checkpoints: Sequence[Checkpoint],
    keys: ApiKeys,
    max_positions: Sequence[int],
    database: URL,
) -> FastAPI:
    """The application over handles of the other deployments."""
    configure_logs(config.logs)
    export_to_ray()

    def handle(name: str) -> DeploymentHandle:
        return ray_serve.get_deployment_handle(name, app_name=config.app_name)

    def route(checkpoint: Checkpoint, limit: int) -> ModelRoute:
        created = int(datetime.fromisoformat(checkpoint.created_at).timestamp())
        return ModelRoute(
            served=ServedModel(checkpoint.name, checkpoint.version, created),
            engine=RemoteEngine(
                handle(engine_deployment(checkpoint.name)),
                max_positions=limit,
                token_timeout_s=config.engine.request_timeout_s,
            ),
            renderer=ChatRenderer(MossTokenizer.load(checkpoint.folder)),
            meta_version=checkpoint.meta_version,
            quality=checkpoint.quality,
        )

    tools = {
        name: RemoteTool(
            name, handle(tool_deployment(name)), timeout_s=config.tools.call_timeout_s(name)
        )
        for name in config.tools.enabled
    }
    names = [checkpoint.name for checkpoint in checkpoints]
    service = ChatService(
        models=ModelRouter(
            [route(*pair) for pair in zip(checkpoints, max_positions, strict=True)],
            alias=config.alias,
            release=watched_release(config, names),
        ),
        tools=tools,
        store=Store(database),
        config=config,
    )
    return build_app(service, keys, behind_serve=True)


def watched_release(config: ServeChatConfig, names: Sequence[str]) -> WatchedFile[Release] | None:
    """The release file of a config, if it names one.

    Raises:
        ConfigError: it is absent or malformed, or releases a model that is not among `names`.
    """
    if config.release_file is None:
        return None
    return WatchedFile(config.release_file, lambda path: read_release(path).check(names))
