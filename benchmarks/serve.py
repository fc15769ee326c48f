"""Our chat service beside vLLM's own server on one model, and what a turn with a tool costs.

    python -m benchmarks.serve

The servers run one after the other, theirs before and after ours and counted as the mean of both
runs, so that a machine that grows slower or faster favours neither. Each has one engine of one
thread, the same weights, prompt and lengths. The last line is one JSON object. Nothing else should
run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from benchmarks.chat_clients import Json, Load, offer_load
from benchmarks.serve_assets import (
    MODEL_NAME,
    NUM_TOKENS,
    QUESTION,
    make_checkpoint,
    prompt_ids,
    service_config,
)
from benchmarks.serve_tools import tool_figures
from benchmarks.synthesis import local_cluster

START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 30.0


def loads(url: str, body: Json, flags: argparse.Namespace) -> list[Load]:
    """One server under every load, after a warm-up."""

    async def work() -> list[Load]:
        async def once(concurrency: int, num_requests: int) -> Load:
            return await offer_load(
                url,
                body,
                num_requests=num_requests,
                concurrency=concurrency,
                num_tokens=NUM_TOKENS,
            )

        await once(max(flags.concurrency), max(flags.concurrency))
        return [await once(number, flags.rounds * max(4, number)) for number in flags.concurrency]

    return asyncio.run(work())


@contextmanager
def vllm_server(folder: Path) -> Iterator[str]:
    """vLLM's own OpenAI server; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = (
        f"--model {folder} --served-model-name {MODEL_NAME} --host 127.0.0.1 --port {port} "
        "--dtype float32 --enforce-eager --max-model-len 1024 --max-num-seqs 32 "
        f"--kv-cache-memory-bytes {1 << 29} --disable-log-stats --disable-uvicorn-access-log"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *flags.split()],
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
        },
        stdout=sys.stderr,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(f"{address}/health", process)
        yield address
    finally:
        process.terminate()
        process.wait(STOP_TIMEOUT_S)


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"vLLM's server ended with {process.returncode}; see above")
        with contextlib.suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(url, timeout=5).close()
            return
        time.sleep(0.5)
    raise RuntimeError(f"vLLM's server did not answer within {START_TIMEOUT_S:g} s")


def run_theirs(folder: Path, flags: argparse.Namespace) -> list[Load]:
    """vLLM's server on `/v1/completions`, with the token ids that our service would send."""
    body: Json = {
        "model": MODEL_NAME,
        "prompt": prompt_ids(folder),
        "max_tokens": NUM_TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    with vllm_server(folder) as address:
        return loads(f"{address}/v1/completions", body, flags)


def run_ours(
    folder: Path, workspace: Path, flags: argparse.Namespace
) -> tuple[list[Load], dict[str, float]]:
    """Our service on a cluster of its own: its loads, and the figures of its tools."""
    from ray import serve as ray_serve

    from serve.deployment import deploy
    from serve.edge_replica import Checkpoint

    body: Json = {
        "messages": [{"role": "user", "content": QUESTION}],
        "tool_choice": "none",
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    config = service_config(workspace)
    with local_cluster():
        try:
            checkpoint = Checkpoint(
                str(folder),
                MODEL_NAME,
                "v",
                "2024-01-01T00:00:00",
                config.meta_version,
                quality=100,
            )
            address = deploy(config, [checkpoint])
            found = loads(f"{address}/v1/chat/completions", body, flags)
            return found, asyncio.run(tool_figures(config))
        finally:
            ray_serve.shutdown()


def mean_of(runs: Sequence[list[Load]]) -> list[Load]:
    """One server's loads over several runs of it."""
    return [
        replace(
            same[0],
            tokens_per_s=fmean(load.tokens_per_s for load in same),
            first_token_s=fmean(load.first_token_s for load in same),
        )
        for same in zip(*runs, strict=True)
    ]


def figures(theirs: list[Load], ours: list[Load]) -> dict[str, float]:
    """Ratios per load, and what we add to the median first token where requests do not queue."""
    found: dict[str, float] = {}
    for their, our in zip(theirs, ours, strict=True):
        suffix = f"c{our.concurrency}"
        found[f"tokens_per_s_{suffix}"] = round(our.tokens_per_s, 1)
        found[f"tokens_ratio_{suffix}"] = round(our.tokens_per_s / their.tokens_per_s, 4)
        found[f"ttft_ms_{suffix}"] = round(1000 * our.first_token_s, 2)
        found[f"ttft_added_ms_{suffix}"] = round(
            1000 * (our.first_token_s - their.first_token_s), 2
        )
    found["ttft_added_ms"] = found[f"ttft_added_ms_c{ours[0].concurrency}"]
    return found


def table(name: str, rows: list[Load]) -> str:
    """One line per load."""
    return "\n".join(
        f"{name:<8}{row.concurrency:>4} at once{row.tokens_per_s:>9.0f} tokens/s"
        f"{1000 * row.first_token_s:>9.1f} ms to the first token"
        for row in rows
    )


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=6, help="requests per client and load")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "model")
        make_checkpoint(folder)
        before = run_theirs(folder, flags)
        print(table("vLLM", before), flush=True)
        ours, tools = run_ours(folder, Path(name, "workspace"), flags)
        print(table("ours", ours), flush=True)
        after = run_theirs(folder, flags)
        print(table("vLLM", after), flush=True)
    print(json.dumps(figures(mean_of([before, after]), ours) | tools))


if __name__ == "__main__":
    main()
