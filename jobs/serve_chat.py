"""Deploy the chat service: engine, tools, OpenAI-compatible API and chat page.

Usage: python -m jobs.serve_chat --config tiny [--set http.port=8000]
On a cluster (a submitted job, or RAY_ADDRESS set) the service goes on after the job; alone, it runs
until interrupted. Writes `service.json` with the page's address.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jobs.entry import run_job
from moss.config.serve import ServeChatConfig, ServedModelConfig

if TYPE_CHECKING:
    from serve.edge_replica import Checkpoint

CONFIG_CLASS = ServeChatConfig
CHECKPOINT = "checkpoint"
"""Folder of a run that holds its model."""


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry."""
    return run_job("serve_chat", CONFIG_CLASS, run_stage, argv)


def run_stage(config: ServeChatConfig) -> None:
    """Resolve the checkpoints, deploy, wait until a token was generated, tell the address."""
    from actors.cluster import ADDRESS_ENV, connect
    from moss.lineage import Run
    from moss.storage import write_json
    from serve.deployment import deploy
    from serve.http_port import free_port

    if not os.environ.get(ADDRESS_ENV):
        free_port(config.http)  # a private cluster takes long to start, and this tells at once
    inputs = {"model": served_run(config, config.model)}
    inputs |= {item.model: served_run(config, item.model) for item in config.more_models}
    with Run.open(config, "serve_chat", inputs=inputs) as run:
        checkpoints = served_checkpoints(config)
        with connect(
            num_cpus_needed=config.num_cpus, what="the chat service",
            num_gpus_needed=config.num_gpus,
        ):  # fmt: skip
            url = deploy(config, checkpoints)
            write_json(run.path("service.json"), {"url": url, "app_name": config.app_name})
            if not run.finished:
                run.finish(outputs=[], counts={}, model_name=checkpoints[0].name)
            print(f"chat page: {url}/   API: {url}/v1", flush=True)
            while not os.environ.get(ADDRESS_ENV):
                time.sleep(1.0)


def served_run(config: ServeChatConfig, model: str) -> str:
    """Folder of the run that `model` names by its id, its path, or that of its `checkpoint/`."""
    folder = config.run_path(model).rstrip("/")
    return folder.removesuffix(f"/{CHECKPOINT}") or folder


def served_checkpoints(config: ServeChatConfig) -> list[Checkpoint]:
    """The models of a config, the first one first."""
    from moss.lineage import load_manifest, shared_folder
    from moss.storage import join
    from serve.edge_replica import Checkpoint

    def resolve(item: ServedModelConfig) -> Checkpoint:
        folder = served_run(config, item.model)
        manifest = load_manifest(folder)
        return Checkpoint(
            folder=shared_folder(join(folder, CHECKPOINT)),
            name=manifest.model_name or item.model,
            version=manifest.manifest_digest,
            created_at=manifest.created_at,
            meta_version=item.meta_version or config.meta_version,
            quality=item.quality,
        )

    first = ServedModelConfig(model=config.model, quality=config.turn.quality)
    return [resolve(item) for item in (first, *config.more_models)]


if __name__ == "__main__":
    raise SystemExit(main())
