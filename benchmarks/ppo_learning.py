"""Whether PPO learns: our actors on small models, score and KL before and after, seed by seed.

    python -m benchmarks.ppo_learning                                 3 seeds, lr 3e-5, KL below 1
    python -m benchmarks.ppo_learning --lr 1e-4 --iterations 120 --paper-kl
                                                                      monitors stop it in time

The KL coefficient is one that keeps these models near the first policy for all iterations; with
`--paper-kl` it is the paper's, and only the monitors hold the policy back.

Models and prompts are those of `benchmarks.ppo`. Held-out requests are asked before and after;
their replies get the preference model's score, the programmed score it was taught, and their KL
from the first policy. Scores are in spreads of the preference model. The last line is one JSON
object.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from actors.ppo_run import CHECKPOINT, run_ppo
from benchmarks.ppo import ask, child, prepare
from benchmarks.ppo_assets import (
    MOST_NEW_TOKENS,
    NUM_PROMPTS,
    SEED,
    draw_conversation,
    encode_prompt,
    load_assets,
    programmed_score,
)
from benchmarks.synthesis import local_cluster
from moss import metrics as names
from moss.config.ppo import SamplingParams, TrainPPOConfig
from moss.ppo_inputs import PPOInputs
from moss.tracking import read_metrics

NUM_HELD_OUT = 256
WINDOW = 5
"""Iterations whose mean is one point of a curve."""
MIN_RISE, MAX_KL_NATS, MAX_STOPPED_KL_NATS = 0.5, 1.0, 8.0
"""What a run must show: a rise of the score at a KL below the second, after all its iterations;
with the paper's coefficient, a stop before any iteration with a KL above the third."""
KL_COEFFICIENT = 0.6
"""Of the score's spread per nat: at the paper's 0.02 these small models leave the first policy by 3
nats within 30 iterations."""


@dataclass(frozen=True, slots=True)
class Replies:
    """Replies of one policy to the held-out requests."""

    score: float
    """Preference model, in its spreads."""
    programmed: float
    kl_nats: float
    """From the first policy, per reply."""
    length_tokens: float
    finished: float
    shown: list[str]


@dataclass(frozen=True, slots=True)
class Learned:
    """One seed."""

    seed: int
    iterations: int
    stopped_by: str
    """Empty where no monitor stopped the run."""
    first_score: float
    last_score: float
    """Of rollouts, over the first and last `WINDOW` iterations."""
    last_kl_nats: float
    highest_kl_nats: float
    """Of a single iteration."""
    before: Replies
    after: Replies

    def holds(self, flags: argparse.Namespace) -> bool:
        """Whether the run shows what it must; see `MIN_RISE`."""
        if self.after.programmed <= self.before.programmed:
            return False
        if flags.paper_kl:
            return bool(self.stopped_by) and self.highest_kl_nats < MAX_STOPPED_KL_NATS
        rise = min(self.last_score - self.first_score, self.after.score - self.before.score)
        kl_nats = max(self.last_kl_nats, self.after.kl_nats)
        return not self.stopped_by and rise >= MIN_RISE and kl_nats < MAX_KL_NATS


def made_config(flags: argparse.Namespace, seed: int) -> TrainPPOConfig:
    """One run: 32 prompts, 4 minibatches, one thread per actor."""
    actor = {"num_cpus": 0.25, "num_threads": 1}
    roles = ("policy", "critic", "reference", "reward", "rollout")
    return TrainPPOConfig.model_validate(
        {
            "seed": seed,
            "num_iterations": flags.iterations,
            "checkpoint_every": 2,
            "ppo": {
                "num_rollouts": 32,
                "num_minibatches": 4,
                "micro_batch_size": 8,
                "policy_learning_rate": flags.lr,
                "critic_learning_rate": flags.lr,
                **({} if flags.paper_kl else {"kl_coefficient": KL_COEFFICIENT}),
            },
            "rollout": {
                "engine": "transformers",
                "max_prompt_tokens": 32,
                "sampling": {"max_new_tokens": MOST_NEW_TOKENS},
            },
            "actors": dict.fromkeys(roles, actor),
        }
    )


def held_out_prompts(inputs: PPOInputs, draw: random.Random) -> list[list[int]]:
    """Requests that no training prompt asks."""
    from moss.tokenizer import MossTokenizer

    tokenizer = MossTokenizer.load(inputs.policy)
    seen = {tuple(prompt) for prompt in inputs.prompts.prompts}
    found: list[list[int]] = []
    while len(found) < NUM_HELD_OUT:
        prompt = encode_prompt(tokenizer, draw_conversation(draw)[0])
        if tuple(prompt) not in seen:
            seen.add(tuple(prompt))
            found.append(prompt)
    return found


def ask_policy(checkpoint: str, inputs: PPOInputs, prompts: Sequence[list[int]]) -> Replies:
    """What a policy says to held-out requests."""
    import torch

    from moss.forward import evaluate_logprobs, evaluate_scores
    from moss.models import PreferenceModel, load_policy
    from moss.rollouts import RolloutBatch, SampleRequest
    from moss.sampling import TransformersSampler
    from moss.tokenizer import MossTokenizer

    torch.set_num_threads(1)
    tokenizer = MossTokenizer.load(inputs.policy)
    policy, first = load_policy(checkpoint), load_policy(inputs.policy)
    requests = [SampleRequest(prompt, seed=number) for number, prompt in enumerate(prompts)]
    params = SamplingParams(max_new_tokens=MOST_NEW_TOKENS)
    rollouts = TransformersSampler(policy, pad_id=inputs.pad_id).generate(
        requests, params, inputs.stop_ids
    )
    batch = RolloutBatch.from_rollouts(rollouts, pad_id=inputs.pad_id)
    logprobs_BT, first_BT = (
        evaluate_logprobs(model, batch, temperature=1.0, max_rows=32) for model in (policy, first)
    )
    scorer = PreferenceModel.load(inputs.preference_model).eval()
    scores_B = evaluate_scores(scorer, batch, device=torch.device("cpu"), max_rows=32)
    texts = [
        tokenizer.decode([t for t in r.response_ids if t not in inputs.stop_ids]).strip()
        for r in rollouts
    ]
    return Replies(
        score=float(scores_B.mean()) / inputs.score_scale,
        programmed=statistics.mean(map(programmed_score, texts)),
        kl_nats=float((logprobs_BT - first_BT).sum(1).mean()),
        length_tokens=batch.num_response_tokens / batch.num_rollouts,
        finished=float(batch.finished_B.mean()),
        shown=texts[:3],
    )


def learn(folder: Path, flags: argparse.Namespace, seed: int, run_folder: str) -> Learned:
    """One whole run with its actors."""
    assets = load_assets(folder)
    inputs = replace(assets, prompts=replace(assets.prompts, seed=seed))
    prompts = held_out_prompts(inputs, random.Random(SEED + 2))
    result = run_ppo(made_config(flags, seed), inputs, run_folder)
    seen = [metrics for _, metrics in read_metrics(run_folder)]
    scores = [metrics[names.ROLLOUT_SCORE] / inputs.score_scale for metrics in seen]
    kl_nats = [metrics[names.ROLLOUT_KL] for metrics in seen]
    return Learned(
        seed=seed,
        iterations=len(seen),
        stopped_by="; ".join(result.notes),
        first_score=statistics.mean(scores[:WINDOW]),
        last_score=statistics.mean(scores[-WINDOW:]),
        last_kl_nats=statistics.mean(kl_nats[-WINDOW:]),
        highest_kl_nats=max(kl_nats),
        before=ask_policy(inputs.policy, inputs, prompts),
        after=ask_policy(f"{run_folder}/{CHECKPOINT}", inputs, prompts),
    )


def report(learned: Learned) -> str:
    """One seed for people."""
    before, after = learned.before, learned.after
    lines = [
        f"seed {learned.seed}: {learned.iterations} iterations"
        + (f", {learned.stopped_by}" if learned.stopped_by else ""),
        f"  rollouts: score {learned.first_score:.2f} -> {learned.last_score:.2f} at KL "
        f"{learned.last_kl_nats:.2f} nats per reply (highest {learned.highest_kl_nats:.2f})",
        f"  held out: score {before.score:.2f} -> {after.score:.2f}, programmed "
        f"{before.programmed:.2f} -> {after.programmed:.2f}, KL {after.kl_nats:.2f}, tokens "
        f"{before.length_tokens:.1f} -> {after.length_tokens:.1f}, finished {after.finished:.0%}",
        *(f"    {text}" for text in after.shown),
    ]
    return "\n".join(lines)


def summary(flags: argparse.Namespace, runs: Sequence[Learned]) -> dict[str, object]:
    """All seeds."""
    mean = statistics.mean
    return {
        "lr": flags.lr,
        "iterations": flags.iterations,
        "prompts": NUM_PROMPTS,
        "held_out": NUM_HELD_OUT,
        "rollout_rise": round(mean(r.last_score - r.first_score for r in runs), 3),
        "held_out_rise": round(mean(r.after.score - r.before.score for r in runs), 3),
        "programmed_rise": round(mean(r.after.programmed - r.before.programmed for r in runs), 3),
        "last_kl_nats": round(mean(r.last_kl_nats for r in runs), 3),
        "highest_kl_nats": round(max(r.highest_kl_nats for r in runs), 3),
        "num_stopped": sum(bool(r.stopped_by) for r in runs),
        "holds": all(r.holds(flags) for r in runs),
        "runs": [asdict(r) for r in runs],
    }


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--lr", type=float, default=3e-5, help="of policy and critic")
    parser.add_argument("--iterations", type=int, default=30)
    parser.add_argument("--paper-kl", action="store_true", help="the paper's coefficient, 0.02")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--assets", type=Path, help="folder to keep models in between runs")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = flags.assets or Path(scratch, "assets")
        with child(prepare, str(folder), 1) as maker:  # one thread: the same assets everywhere
            ask(maker, True)
        runs = []
        with local_cluster():
            for seed in flags.seeds:
                runs.append(learn(folder, flags, seed, str(Path(scratch, f"seed-{seed}"))))
                print(report(runs[-1]), flush=True)
        print(json.dumps(summary(flags, runs)))


if __name__ == "__main__":
    main()
