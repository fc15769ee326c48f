"""Seconds to put a policy's weights into a rollout actor, beside a plain copy of as many bytes.

    python -m benchmarks.ppo_sync                     5 and 100 million parameters, both samplers
    python -m benchmarks.ppo_sync --sampler vllm --sizes 100M

A push is what PPO does after every update: weights leave the policy's process, are checked, loaded
by the sampler, and checked again by a forward pass on both sides. `copy_s` is the same number of
bytes handed from one process to another through shared memory. The last line is one JSON object
with a `sync_s`, `copy_s` and `ratio` for each sampler and size, medians all. Nothing else should
run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

from actors.group import ActorGroup
from actors.policy import PolicyActor
from actors.rollout import RolloutActor
from actors.weight_sync import WeightSync
from benchmarks.ppo import ask, child, seconds_to_copy
from benchmarks.ppo_assets import MODEL, SEED, draw_conversation, encode_prompt, train_tokenizer
from benchmarks.synthesis import local_cluster
from moss.config.model import ModelConfig
from moss.config.ppo import TrainPPOConfig
from moss.tokenizer import MossTokenizer

SIZES: Final = {
    "5M": MODEL,
    "100M": ModelConfig(
        hidden_size=768, num_layers=14, num_heads=12, intermediate_size=2112, max_positions=512
    ),
}
SAMPLERS: Final = ("transformers", "vllm")
START_TIMEOUT_S = 300.0


def save_policy(requests: Connection, folder: str, model: ModelConfig) -> None:
    """Child process: writes a random policy of this shape with its tokenizer, and counts it."""
    from moss.models import build_policy_for, save_model

    requests.recv()
    tokenizer = train_tokenizer(random.Random(SEED))
    tokenizer.save(Path(folder))
    policy = build_policy_for(tokenizer, model, seed=SEED)
    save_model(folder, policy, tokenizer_folder=None)
    requests.send(policy.num_parameters())
    requests.recv()


def made_config(sampler: str) -> TrainPPOConfig:
    """One thread per actor."""
    actor = {"num_cpus": 0.25, "num_threads": 1}
    return TrainPPOConfig.model_validate(
        {
            "rollout": {
                "engine": sampler,
                "max_prompt_tokens": 32,
                "sampling": {"max_new_tokens": 48},
                "vllm": {"kv_cache_gib": 0.25, "max_num_seqs": 32},
            },
            "actors": {"policy": actor, "rollout": actor},
        }
    )


def push_seconds(folder: Path, sampler: str, num_pushes: int) -> list[float]:
    """Wall time of each push between two actors, after one to warm up."""
    config, tokenizer = made_config(sampler), MossTokenizer.load(folder)
    placed = config.actors
    policies = ActorGroup.start("policy", placed.policy, PolicyActor, placed.policy)
    rollouts = ActorGroup.start("rollout", placed.rollout, RolloutActor, placed.rollout)
    try:
        loading = (
            policies.call(PolicyActor.load, str(folder), config.ppo, num_steps=1, temperature=1.0),
            rollouts.prepare(
                RolloutActor.load, str(folder), config.rollout, pad_id=tokenizer.pad_id
            ),
        )
        for pending in loading:
            pending.wait(START_TIMEOUT_S)
        weights = WeightSync(
            policies,
            rollouts,
            run_folder=str(folder),
            probe_ids=encode_prompt(tokenizer, draw_conversation(random.Random(SEED))[0]),
            timeouts=config.timeouts,
            rollout=config.rollout,
        )
        taken = []
        for version in range(num_pushes + 1):
            began = time.perf_counter()
            weights.push(version)
            taken.append(time.perf_counter() - began)
        weights.close()
        return taken[1:]
    finally:
        policies.stop()
        rollouts.stop()


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sampler", choices=SAMPLERS, nargs="+", default=SAMPLERS)
    parser.add_argument("--sizes", choices=tuple(SIZES), nargs="+", default=tuple(SIZES))
    parser.add_argument("--pushes", type=int, default=9, help="timed, of each")
    flags = parser.parse_args()
    figures: dict[str, dict[str, float]] = {}
    for size in flags.sizes:
        with tempfile.TemporaryDirectory() as name:
            with child(save_policy, name, SIZES[size]) as maker:
                num_parameters = int(ask(maker, True))
            num_bytes = Path(name, "model.safetensors").stat().st_size
            copy_s = seconds_to_copy(num_bytes)
            for sampler in flags.sampler:
                with local_cluster():
                    sync_s = statistics.median(push_seconds(Path(name), sampler, flags.pushes))
                print(
                    f"{sampler:<13}{num_parameters / 1e6:6.1f}M parameters: push {sync_s:.3f} s, "
                    f"copy {copy_s:.3f} s, {sync_s / copy_s:.2f} times",
                    flush=True,
                )
                figures[f"{sampler}_{size}"] = {
                    "sync_s": round(sync_s, 4),
                    "copy_s": round(copy_s, 4),
                    "ratio": round(sync_s / copy_s, 3),
                }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
