"""Two hundred clients at once, clients that leave, and processes that are killed mid-stream.

Usage: python -m benchmarks.serve_load [--clients 200] [--seconds 120] [--no-kills] [--engine vllm]

Deploys the chat service through Ray Serve on a Ray cluster of its own, with a random model of a few
hundred thousand parameters, so that the figures are about the service and not about a model. Then

1. `clients` clients ask for `seconds`: streaming and not, one in five leaves early. Each request
   must end in an answer, a 429 in form, or a break that a client can tell (see `serve_clients`);
2. a client leaves in the middle of a long stream, and the engine is asked how many tokens it makes
   from then on: `stopped_after_s` is when it made its last one;
3. the engine's, the edge's and a tool's replica, with vLLM also the process of its engine alone,
   are killed (SIGKILL) while a stream runs:
   `broken` says that the stream ended without `[DONE]`, `back_s` when the next answer was complete.

The last line is one JSON object. Exit code 1: a request hung or ended wrongly, tokens were made for
more than a second after the client had left, a killed process went unnoticed, or the service was
not back in time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import aiohttp
import psutil

from benchmarks.serve_clients import CHAT, DONE, Load, run_clients
from moss.config.serve import ServeChatConfig

STOP_LIMIT_S = 1.0
BACK_LIMIT_S = 90.0
"""A replica is started anew by Ray Serve: a process, its imports, the model."""
LONG = {"messages": [{"role": "user", "content": "Go on."}], "stream": True, "tool_choice": "none"}
SUM = {"messages": [{"role": "user", "content": "12+7"}], "stream": True}
MODEL = "MOSS-PAT"
MAX_TOKENS = 2_000


def make_checkpoint(folder: Path) -> Path:
    """A random policy with a small tokenizer."""
    from moss.config.model import ModelConfig
    from moss.models import build_policy_for
    from moss.tokenizer import add_controls, train_bpe

    texts = [
        "What is 12+7? MOSS Thoughts on Search on Calculate on Solve on. 法国的首都是巴黎。"
    ] * 20
    tokenizer = add_controls(train_bpe(texts, vocab_size=310), style="special", row_multiple=64)
    tokenizer.save(folder)
    model = ModelConfig(
        hidden_size=64, num_layers=2, num_heads=2, intermediate_size=128, max_positions=4_096,
        initializer_std=0.3,
    )  # fmt: skip
    build_policy_for(tokenizer, model, seed=0).save_pretrained(folder)
    return folder


def deploy_service(workspace: Path, engine: str) -> str:
    """The service's address."""
    from serve.deployment import deploy
    from serve.edge_replica import Checkpoint

    config = ServeChatConfig.model_validate(
        {
            "workspace": str(workspace),
            "meta_version": "tiny",
            "turn": {"temperature": 0, "max_reply_tokens": MAX_TOKENS, "max_command_tokens": 8,
                     "max_thought_tokens": 8},
            "http": {"port": 0},
            "tools": {"enabled": ["calculator"]},
            "default_tools": ["calculator"],
            "engine": {"kind": engine, "num_cpus": 0.2, "kv_cache_gib": 0.2},
            "tool_num_cpus": 0.05,
        }
    )  # fmt: skip
    folder = str(make_checkpoint(workspace / "checkpoint"))
    return deploy(
        config, [Checkpoint(folder, MODEL, "v", "2024-01-01T00:00:00", "tiny", quality=100)]
    )


async def measure_stop(address: str) -> float:
    """Seconds from a client's leaving to the last token that the engine made for it."""
    from ray import serve as ray_serve

    from serve.edge_replica import engine_deployment

    engine = ray_serve.get_deployment_handle(engine_deployment(MODEL), app_name="moss-chat")
    async with aiohttp.ClientSession(address, trust_env=False) as session:
        answer = await session.post(CHAT, json=LONG)
        await _first_words(answer)
        answer.close()
    left = time.monotonic()
    made, last = -1, left
    while time.monotonic() - left < 4 * STOP_LIMIT_S:
        now = await engine.num_made.remote()
        if now != made:
            made, last = now, time.monotonic()
        await asyncio.sleep(0.02)
    return last - left


async def _first_words(answer: aiohttp.ClientResponse) -> None:
    """Read until the reply has begun."""
    async with asyncio.timeout(60):
        async for line in answer.content:
            if b'"content": "' in line and b'"content": ""' not in line:
                return
    raise RuntimeError("the stream ended before it began")


def processes(title: str) -> list[int]:
    """Process ids of what this process has started, by the beginning of the title."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if " ".join(process.cmdline()).startswith(title):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


async def kill_mid_stream(address: str, title: str, *, must_break: bool) -> dict[str, object]:
    """Kill processes while a stream runs; how it ended, and when service was back."""
    async with aiohttp.ClientSession(address, trust_env=False) as session:
        answer = await session.post(CHAT, json=LONG)
        await _first_words(answer)
        pids = processes(title)
        if not pids:
            raise RuntimeError(f"no process {title}... was found among this process's children")
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        rest = bytearray()
        try:
            async with asyncio.timeout(BACK_LIMIT_S):
                async for piece in answer.content.iter_any():
                    rest += piece
            ending = "complete" if rest.rstrip().endswith(DONE) else "without [DONE]"
        except aiohttp.ClientError as error:
            ending = type(error).__name__
        except TimeoutError:
            ending = "hung"
        ended_s = time.monotonic() - killed
        answer.close()
    back_s = await _until_answered(address, killed)
    broken = ending not in ("complete", "hung")
    ok = (broken or not must_break) and ending != "hung" and back_s <= BACK_LIMIT_S
    return {
        "killed": title, "ending": ending, "ended_s": round(ended_s, 2), "broken": broken,
        "back_s": round(back_s, 2), "ok": ok,
    }  # fmt: skip


async def _until_answered(address: str, killed: float) -> float:
    """Seconds from the kill to the end of the first complete answer that uses every part."""
    while time.monotonic() - killed < BACK_LIMIT_S + 30:
        try:
            async with (
                asyncio.timeout(20), aiohttp.ClientSession(address, trust_env=False) as session,
                session.post(CHAT, json=SUM) as answer,
            ):  # fmt: skip
                if answer.status == 200 and (await answer.read()).rstrip().endswith(DONE):
                    return time.monotonic() - killed
        except (aiohttp.ClientError, TimeoutError):
            pass
        await asyncio.sleep(0.2)
    return float("inf")


def report(
    load: Load, stops: Sequence[float], kills: Sequence[dict[str, object]]
) -> dict[str, object]:
    """The figures, and whether they hold."""
    seconds = sorted(load.seconds) or [float("nan")]
    endings = {name: load.endings[name]
               for name in ("answer", "limited", "broken", "left", "hung", "wrong")}  # fmt: skip
    ok = (
        load.endings["hung"] == load.endings["wrong"] == 0 < load.endings["answer"]
        and max(stops, default=0.0) <= STOP_LIMIT_S
        and all(kill["ok"] for kill in kills)
    )
    return {
        "num_requests": load.num_requests, **endings,
        "answer_p50_s": round(median(seconds), 3),
        "answer_p99_s": round(seconds[int(0.99 * (len(seconds) - 1))], 3),
        "stopped_after_s": [round(stop, 3) for stop in stops],
        "kills": list(kills), "oddities": load.oddities, "ok": ok,
    }  # fmt: skip


def victims(engine: str) -> list[tuple[str, bool]]:
    """Beginnings of the titles of processes to kill, and whether a stream must break with them."""
    replica = "ray::ServeReplica:moss-chat:"
    alone = [("VLLM::EngineCore", True)] if engine == "vllm" else []
    names = (("ChatModel", True), ("ChatEdge", True), ("Tool-calculator", False))
    return [*alone, *((replica + name, must_break) for name, must_break in names)]


async def attack(address: str, arguments: argparse.Namespace) -> dict[str, object]:
    """All three parts."""
    print(f"{arguments.clients} clients for {arguments.seconds:g} s at {address}", flush=True)
    load = await run_clients(address, num_clients=arguments.clients, seconds=arguments.seconds)
    print(dict(load.endings), flush=True)
    stops = [await measure_stop(address) for _ in range(3)]
    kills = []
    for title, must_break in () if arguments.no_kills else victims(arguments.engine):
        kills.append(await kill_mid_stream(address, title, must_break=must_break))
        print(kills[-1], flush=True)
    return report(load, stops, kills)


def main(argv: Sequence[str] | None = None) -> int:
    """Run on a cluster of its own, which ends with it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--no-kills", action="store_true")
    parser.add_argument("--engine", choices=("transformers", "vllm"), default="transformers")
    arguments = parser.parse_args(argv)
    import ray
    from ray import serve as ray_serve

    root = Path(__file__).resolve().parents[1]
    os.environ["PYTHONPATH"] = f"{root}{os.pathsep}{root / 'platform'}"
    ray.init(
        address="local", num_cpus=4, include_dashboard=False, log_to_driver=False,
        object_store_memory=200_000_000,
    )  # fmt: skip
    try:
        with tempfile.TemporaryDirectory() as folder:
            address = deploy_service(Path(folder), arguments.engine)
            figures = asyncio.run(attack(address, arguments))
            ray_serve.shutdown()
    finally:
        ray.shutdown()
    print(json.dumps(figures))
    return 0 if figures["ok"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
