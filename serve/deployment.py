"""The chat service as one detached Ray Serve application: edge, engine, one deployment per tool."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import httpx
from fastapi import FastAPI
from ray import serve as ray_serve
from ray.serve.config import ControllerOptions
from ray.serve.context import _get_global_client
from ray.serve.schema import ApplicationStatus
from sqlalchemy.engine import URL

from moss.config.serve import ServeChatConfig
from moss.errors import ConfigError, ResourceError, WaitTimeoutError
from moss.storage import absolute, join
from serve import proxy_door
from serve.auth import ApiKeys
from serve.edge_replica import (
    Checkpoint,
    build_edge,
    engine_deployment,
    tool_deployment,
    watched_release,
)
from serve.engine_replica import EngineReplica
from serve.http_port import free_port_of_head
from serve.scaling import replica_options
from serve.store.database import store_url
from serve.tool_workers import ToolWorker

EDGE = "ChatEdge"
_POLL_S = 0.5
_SURGE_PERCENT = 100
"""Ray Serve's own way, 0, ends the old replica before the new one starts."""
_EVERYWHERE: Final = {
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "1000",
}
"""No piece of an answer need pass from one thread's event loop to another's, and Prometheus does
not look ten times a second."""
_PROXY_ENV: Final = {
    "RAY_SERVE_PROXY_USE_GRPC": "1",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": proxy_door.IMPORT_PATH,
    **_EVERYWHERE,
}
"""Over gRPC a piece of an answer costs half of what it costs as an object of Ray's."""
_REPLICA_ENV: Final = {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0", **_EVERYWHERE}
"""Edge and engines do not block their event loops, so Serve's own work can run in them."""
_SERVE_LOGS = {"enable_access_log": False}
"""Ours has one line per request (`serve.watch`), and no string that a client chose."""
_BACKSTOP_ONGOING = 200
"""Serve's own limit per replica, above ours: ours answers in OpenAI's form."""


def deploy(config: ServeChatConfig, checkpoints: Sequence[Checkpoint]) -> str:
    """Deploy on the connected cluster, wait until it answers, return the page's address.

    Deployed again with other models or settings, new replicas start beside the old ones, which
    answer until those are ready.

    The application is detached: it outlives the caller, until `undeploy` or the cluster's end.

    Raises:
        ConfigError: keys are missing or malformed for the configured host, its port is taken, two
            models have one name, or the release names a model that is not served.
        ResourceError: the application failed to start; the message ends with Ray Serve's reason.
        WaitTimeoutError: it is not ready within `start_timeout_s`.
    """
    keys = ApiKeys.load(config.http)
    config = _with_absolute_paths(config)
    _check_names(config, checkpoints)
    max_positions = [_max_positions(checkpoint.folder) for checkpoint in checkpoints]
    deadline = time.monotonic() + config.start_timeout_s
    address = _start_proxy(config)
    assert config.database is not None, "it was made absolute"
    database = store_url(config.database, os.environ)
    application = _application(config, checkpoints, keys, max_positions, database)
    ray_serve.run_many(
        [
            ray_serve.RunTarget(
                application, name=config.app_name, route_prefix="/", logging_config=_SERVE_LOGS
            )
        ],
        wait_for_applications_running=False,
    )
    _wait_until_running(config.app_name, deadline)
    _wait_until_ready(address, deadline)
    return address


def undeploy(app_name: str = "moss-chat") -> None:
    """Remove the application from the connected cluster; nothing happens where there is none."""
    ray_serve.delete(app_name)


def _with_absolute_paths(config: ServeChatConfig) -> ServeChatConfig:
    """Replicas run in other folders than the caller."""
    images = config.tools.text_to_image.image_folder or join(config.workspace, "images")
    drawing = config.tools.text_to_image.model_copy(update={"image_folder": absolute(images)})
    database = config.database or join(config.workspace, "chat-store", "chat.sqlite")
    release = config.release_file and absolute(config.release_file)
    if "://" not in database:
        database = absolute(database)
    return config.model_copy(
        update={
            "release_file": release,
            "tools": config.tools.model_copy(update={"text_to_image": drawing}),
            "database": database,
        }
    )


def _max_positions(folder: str) -> int:
    try:
        settings = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))
        return int(settings["max_position_embeddings"])
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"{folder} holds no model to serve ({error}); train it first, or set model to a run "
            "whose checkpoint/ is there"
        ) from error


def _start_proxy(config: ServeChatConfig) -> str:
    """Start Ray Serve's HTTP proxy, or find the one that runs; returns its address."""
    try:
        running = _get_global_client(raise_if_no_controller_running=False)
    except Exception:  # a controller that is going down counts as none
        running = None
    if running is None:
        ray_serve.start(
            proxy_location="HeadOnly",
            logging_config=_SERVE_LOGS,
            http_options={
                "host": config.http.host,
                "port": free_port_of_head(config.http),
            },
            # Proxies inherit the controller's environment.
            controller_options=ControllerOptions(runtime_env={"env_vars": _PROXY_ENV}),
        )
        running = _get_global_client()
    options = running.http_config
    host = "127.0.0.1" if options.host in ("0.0.0.0", "::", None) else options.host
    return f"http://{host}:{options.port}"


def _application(
    config: ServeChatConfig,
    checkpoints: Sequence[Checkpoint],
    keys: ApiKeys,
    max_positions: Sequence[int],
    database: URL,
) -> ray_serve.Application:
    engine = config.engine
    models = [
        ray_serve.deployment(
            name=engine_deployment(checkpoint.name),
            **replica_options(engine.scaling),
            ray_actor_options={
                "num_cpus": engine.num_cpus,
                "num_gpus": engine.num_gpus,
                "runtime_env": {"env_vars": _REPLICA_ENV},
            },
            max_ongoing_requests=_BACKSTOP_ONGOING,
            max_surge_percent=_SURGE_PERCENT,
            # Three checks in a row must fail before Serve replaces a replica.
            health_check_period_s=5,
            health_check_timeout_s=60,
            graceful_shutdown_timeout_s=10,
        )(EngineReplica).bind(checkpoint.folder, engine, checkpoint.name, config.logs)
        for checkpoint in checkpoints
    ]
    workers = [
        ray_serve.deployment(
            name=tool_deployment(name),
            ray_actor_options={"num_cpus": config.tool_num_cpus},
            max_ongoing_requests=_BACKSTOP_ONGOING,
            max_surge_percent=_SURGE_PERCENT,
            graceful_shutdown_timeout_s=5,
        )(ToolWorker).bind(name, config.tools, config.logs)
        for name in config.tools.enabled
    ]

    def build() -> FastAPI:
        return build_edge(config, checkpoints, keys, max_positions, database)

    edge = ray_serve.deployment(
        name=EDGE,
        **replica_options(config.edge_scaling),
        ray_actor_options={
            "num_cpus": config.edge_num_cpus,
            "runtime_env": {"env_vars": _REPLICA_ENV},
        },
        max_ongoing_requests=_BACKSTOP_ONGOING,
        max_surge_percent=_SURGE_PERCENT,
        graceful_shutdown_timeout_s=10,
    )(ray_serve.ingress(build)())
    return edge.bind(*models, *workers)


def _check_names(config: ServeChatConfig, checkpoints: Sequence[Checkpoint]) -> None:
    names = [checkpoint.name for checkpoint in checkpoints]
    taken = [*names, *([config.alias] if config.alias else [])]
    if twice := sorted({name for name in taken if taken.count(name) > 1}):
        raise ConfigError(
            f"{twice[0]} names two of the models {', '.join(taken)} (the alias counts too); serve "
            "runs whose models have different names"
        )
    watched_release(config, names)


def _wait_until_running(app_name: str, deadline: float) -> None:
    while time.monotonic() < deadline:
        application = ray_serve.status().applications.get(app_name)
        if application is not None:
            if application.status == ApplicationStatus.RUNNING:
                return
            if application.status in (
                ApplicationStatus.DEPLOY_FAILED,
                ApplicationStatus.UNHEALTHY,
            ):
                reasons = [
                    f"{name}: {deployment.message}"
                    for name, deployment in application.deployments.items()
                    if deployment.message
                ]
                raise ResourceError(
                    f"the chat service did not start: {application.message} {' '.join(reasons)}"
                )
        time.sleep(_POLL_S)
    raise WaitTimeoutError(
        f"the chat service {app_name} was not running in time; raise start_timeout_s, or free CPUs "
        "of the cluster (`ray status`)"
    )


def _wait_until_ready(address: str, deadline: float) -> None:
    """Wait for a generated token through the public door."""
    last = "no answer"
    while time.monotonic() < deadline:
        try:
            answer = httpx.get(f"{address}/ready", timeout=30.0, trust_env=False)
            if answer.status_code == 200:
                return
            last = f"HTTP {answer.status_code}"
        except httpx.HTTPError as error:
            last = f"{type(error).__name__}: {error}"
        time.sleep(_POLL_S)
    raise WaitTimeoutError(f"the chat service at {address} was not ready in time; last: {last}")
