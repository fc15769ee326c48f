"""Deploy the chat service: engine, tools, OpenAI-compatible API and chat page.

Usage: python -m jobs.serve_chat --config tiny [--set http.port=8000]
On a cluster (a submitted job, or RAY_ADDRESS set) the service goes on after the job; alone, it runs
until interrupted. Writes `service.json` with the page's address.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from jobs.entry import run_job
from moss.config.serve import ServeChatConfig

CONFIG_CLASS = ServeChatConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry."""
    return run_job("serve_chat", CONFIG_CLASS, run_stage, argv)


def run_stage(config: ServeChatConfig) -> None:
    """Resolve the checkpoint, deploy, wait until a token was generated, tell the address."""
    from actors.cluster import ADDRESS_ENV, connect
    from moss.lineage import Run, load_manifest, shared_folder
    from moss.storage import join, write_json
    from serve.deployment import Checkpoint, deploy

    model = config.run_path(config.model)
    with Run.open(config, "serve_chat", inputs={"model": model}) as run:
        manifest = load_manifest(model)
        checkpoint = Checkpoint(
            folder=shared_folder(join(model, "checkpoint")),
            name=manifest.model_name or config.model,
            version=manifest.manifest_digest,
            created_at=manifest.created_at,
        )
        with connect(
            num_cpus_needed=config.num_cpus, what="the chat service",
            num_gpus_needed=config.engine.num_gpus,
        ):  # fmt: skip
            url = deploy(config, checkpoint)
            write_json(run.path("service.json"), {"url": url, "app_name": config.app_name})
            if not run.finished:
                run.finish(outputs=[], counts={}, model_name=checkpoint.name)
            print(f"chat page: {url}/   API: {url}/v1", flush=True)
            while not os.environ.get(ADDRESS_ENV):
                time.sleep(1.0)


if __name__ == "__main__":
    raise SystemExit(main())
