"""Seconds of a PPO iteration: our actors beside the same computations in one process.

    python -m benchmarks.ppo                  both, iteration by iteration, on the same cores
    python -m benchmarks.ppo --sampler vllm   with vLLM as the rollout engine

Four models of 5 million parameters, 32 prompts, at most 48 new tokens, end at the stop token, one
PPO epoch of 4 minibatches, fp32. The last line is one JSON object. Nothing else should run on the
machine meanwhile: `others_cores` says what did.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

from actors.ppo_start import started_actors
from actors.ppo_trainer import PPOTrainer
from actors.weight_sync import WeightSync
from benchmarks.measuring import CpuClock, machine_cpu_s
from benchmarks.ppo_assets import MOST_NEW_TOKENS, load_assets, make_assets, quality_of
from benchmarks.ppo_floor import ORDERS, serve_floor
from benchmarks.synthesis import local_cluster
from moss.config.ppo import TrainPPOConfig

Seconds = dict[str, float]
PHASES = ("rollout", "score", "update", "weight_push")
NUM_COPIES = 9


def made_config(flags: argparse.Namespace) -> TrainPPOConfig:
    """The run that is timed: one thread per actor."""
    actor = {"num_cpus": 0.25, "num_threads": 1}
    return TrainPPOConfig.model_validate(
        {
            "num_iterations": flags.warmup + flags.iterations,
            "ppo": {"num_rollouts": 32, "num_minibatches": 4, "micro_batch_size": 8},
            "rollout": {
                "engine": flags.sampler,
                "max_prompt_tokens": 32,
                "sampling": {"max_new_tokens": MOST_NEW_TOKENS},
                "vllm": {"kv_cache_gib": 0.25, "max_num_seqs": 32},
            },
            "actors": {
                **dict.fromkeys(("policy", "critic", "reference", "reward"), actor),
                "rollout": {**actor, "num_ranks": flags.rollout_actors},
            },
        }
    )


@contextmanager
def child(target: Callable[..., None], *args: object) -> Iterator[Connection]:
    """A new process that runs `target(connection, *args)`; sending it None ends it."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(theirs, *args), daemon=True)
    process.start()
    theirs.close()  # so that a child that dies ends the wait for its answer
    try:
        yield ours
        ours.send(None)
        process.join()
    finally:
        process.kill()


def ask(process: Connection, question: object) -> Any:
    """Send one question to a child and wait for what it says."""
    process.send(question)
    return process.recv()


def prepare(requests: Connection, folder: str, num_threads: int) -> None:
    """Child process: makes the assets, unless they are there, and says how good they are."""
    requests.recv()
    path = Path(folder)
    if not (path / "preference-model").is_dir():
        make_assets(path, num_threads=num_threads)
    requests.send(quality_of(load_assets(path)))
    requests.recv()


def copy_out(requests: Connection, name: str) -> None:
    """Child process: copies a block of shared memory whenever it is told to."""
    block = SharedMemory(name)
    shared, private = block.buf, bytearray(block.size)
    assert shared is not None, "open until `close`"
    while requests.recv() is not None:
        private[:] = shared
        requests.send(len(private))
    block.close()


def seconds_to_copy(num_bytes: int) -> float:
    """Median wall time of handing bytes to another process through shared memory."""
    source = os.urandom(num_bytes)
    block = SharedMemory(create=True, size=num_bytes)
    shared = block.buf
    assert shared is not None, "open until `close`"
    try:
        with child(copy_out, block.name) as reader:
            taken = []
            for _ in range(NUM_COPIES):
                began = time.perf_counter()
                shared[:num_bytes] = source
                ask(reader, True)
                taken.append(time.perf_counter() - began)
        return statistics.median(taken)
    finally:
        block.close()
        block.unlink()


def medians(iterations: Sequence[Seconds]) -> Seconds:
    """The median of each phase, and of their sum as `iteration`; the smallest sum as `fastest`."""
    wholes = [sum(seconds.values()) for seconds in iterations]
    phases = {phase: statistics.median(s[phase] for s in iterations) for phase in PHASES}
    return {**phases, "iteration": statistics.median(wholes), "fastest": min(wholes)}


def table(rows: dict[str, Seconds]) -> str:
    """Seconds per phase, one line per way of running."""
    columns = (*PHASES, "iteration", "fastest")
    lines = [f"{'median seconds':<24}" + "".join(f"{name:>13}" for name in columns)]
    lines += [
        f"{name:<24}" + "".join(f"{row[column]:>13.3f}" for column in columns)
        for name, row in rows.items()
    ]
    return "\n".join(lines)


def progress_line(done: int, wanted: int, timed: dict[str, Seconds]) -> str:
    """What one iteration took; `done` is below 0 while it only warms up."""
    label = f"iteration {done + 1}/{wanted}" if done >= 0 else "warm-up"
    return f"{label}: " + ", ".join(f"{k} {sum(v.values()):.2f} s" for k, v in timed.items())


def measure(folder: Path, flags: argparse.Namespace) -> dict[str, object]:
    """Ours and both orders of the floor in turn, so that all meet the same machine."""
    config, inputs = made_config(flags), load_assets(folder)
    taken: dict[str, list[Seconds]] = {name: [] for name in ("ours", *ORDERS)}
    lengths: list[float] = []
    with ExitStack() as stack:
        floor = stack.enter_context(child(serve_floor, str(folder), config, flags.floor_threads))
        stack.enter_context(local_cluster())
        actors = stack.enter_context(started_actors(config, inputs))
        weights = WeightSync(
            actors.policy,
            actors.rollout,
            run_folder=str(folder),
            probe_ids=inputs.prompts.prompts[0],
            timeouts=config.timeouts,
            rollout=config.rollout,
        )
        stack.callback(weights.close)
        weights.push(0)
        trainer = PPOTrainer(
            actors,
            weights,
            inputs,
            config,
            iteration=0,
            kl_coefficient=config.ppo.kl_coefficient,
        )
        clock = CpuClock(exclude_pid=0)
        for iteration in range(flags.warmup + flags.iterations):
            if iteration == flags.warmup:
                began, own, machine = time.monotonic(), clock.seconds(), machine_cpu_s()
            report = trainer.step()
            timed = {"ours": report.seconds}
            timed |= {order: ask(floor, (iteration, order)) for order in ORDERS}
            print(progress_line(iteration - flags.warmup, flags.iterations, timed), flush=True)
            if iteration >= flags.warmup:
                lengths.append(report.experience.length_tokens)
                for name, seconds in timed.items():
                    taken[name].append(seconds)
        others_s = machine_cpu_s() - machine - (clock.seconds() - own)
        others_cores = max(0.0, others_s) / (time.monotonic() - began)
    weight_bytes = (folder / "policy" / "model.safetensors").stat().st_size
    rows = {name: medians(iterations) for name, iterations in taken.items()}
    print(table(rows), flush=True)
    return {
        **summary(rows, num_rollouts=config.ppo.num_rollouts),
        "copy_s": round(seconds_to_copy(weight_bytes), 4),
        "weight_bytes": weight_bytes,
        "response_tokens": round(statistics.mean(lengths), 1),
        "iterations": flags.iterations,
        "sampler": flags.sampler,
        "rollout_actors": flags.rollout_actors,
        "threads_per_actor": config.actors.policy.num_threads,
        "floor_threads": flags.floor_threads,
        "cores": len(os.sched_getaffinity(0)),
        "others_cores": round(others_cores, 2),
    }


def summary(rows: dict[str, Seconds], *, num_rollouts: int) -> dict[str, object]:
    """Ours against the faster order of the floor.

    Args:
        rows: medians of `ours` and of each order.
    """
    ours = rows["ours"]
    order = min(ORDERS, key=lambda name: rows[name]["iteration"])
    floor = rows[order]
    return {
        "seconds_per_iteration": round(ours["iteration"], 4),
        "floor_seconds": round(floor["iteration"], 4),
        "floor_ratio": round(floor["iteration"] / ours["iteration"], 4),
        "floor_order": order,
        "samples_per_s": round(num_rollouts / ours["iteration"], 2),
        "sync_s": round(ours["weight_push"], 4),
        "phases": {name: {k: round(v, 4) for k, v in row.items()} for name, row in rows.items()},
    }


def main() -> None:
    """Command line entry."""
    num_cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--iterations", type=int, default=15, help="timed, of each")
    parser.add_argument("--warmup", type=int, default=3, help="iterations before those")
    parser.add_argument("--sampler", choices=("transformers", "vllm"), default="transformers")
    parser.add_argument("--rollout-actors", type=int, default=1)
    parser.add_argument("--floor-threads", type=int, default=num_cores, help="of its one process")
    parser.add_argument("--assets", type=Path, help="folder to keep models in between runs")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = flags.assets or Path(scratch)
        with child(prepare, str(folder), num_cores) as maker:
            quality = ask(maker, True)
        figures = {**measure(folder, flags), "preference_correlation": round(quality, 3)}
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
