"""A whole PPO run: start the actors, restore, iterate with checkpoints, save the policy."""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from actors.cluster import connect
from actors.critic import CriticActor
from actors.group import ActorGroup, Pending
from actors.placement import plan_placement
from actors.policy import PolicyActor
from actors.ppo_metrics import live_note
from actors.ppo_trainer import IterationReport, PPOActors, PPOTrainer
from actors.ppo_watch import PPOWatch
from actors.reference import ReferenceActor
from actors.reward import RewardActor
from actors.rollout import RolloutActor
from actors.weight_sync import WeightSync
from moss import metrics as names
from moss.checkpoints import fetch_training_state, load_latest_training_state, save_training_state
from moss.config.ppo import TrainPPOConfig
from moss.ppo_inputs import PPOInputs, load_inputs
from moss.progress import Progress
from moss.storage import join
from moss.usage import measure_own_usage, measure_usage, usage_metrics

STATES = "states"
CHECKPOINT = "checkpoint"
_CONTROLLER_FILE = "controller.json"


@dataclass(slots=True)
class PPOTotals:
    """Counts over all iterations; part of every training state."""

    num_responses: int = 0
    num_tokens: int = 0
    """Of prompts and responses."""
    dropped: list[dict[str, str]] = field(default_factory=list)
    """Iteration, row and reason of each response without a reward."""

    def add(self, report: IterationReport) -> None:
        """Count one iteration."""
        self.num_responses += report.num_responses
        self.num_tokens += report.num_tokens
        self.dropped += [{"iteration": str(report.iteration), **row} for row in report.dropped]


@dataclass(frozen=True, slots=True)
class PPOResult:
    """What a finished run has to say."""

    counts: dict[str, dict[str, int]]
    metrics: dict[str, float]
    """Of the last iteration, and the cost."""
    dropped: list[dict[str, str]]
    notes: tuple[str, ...]
    """What a reader of the checkpoint must know: that a monitor stopped the run."""


def train_ppo(config: TrainPPOConfig, run_folder: str) -> PPOResult:
    """Run PPO to its end, from the last training state if there is one.

    Writes `states/` on the way and `checkpoint/` at the end.

    Raises:
        DataError, ConfigError: inputs that PPO cannot start from.
        ResourceError: the cluster is too small, or an actor died.
        WaitTimeoutError, WeightSyncError: a phase or a weight push did not end in time.
    """
    return run_ppo(config, load_inputs(config), run_folder)


def run_ppo(config: TrainPPOConfig, inputs: PPOInputs, run_folder: str) -> PPOResult:
    """The same from inputs at hand; what `config` says of theirs is not read."""
    placement = plan_placement(config.started_roles)
    with (
        connect(
            num_cpus_needed=placement.num_cpus,
            num_gpus_needed=placement.num_gpus,
            what=f"train_ppo ({placement.arithmetic})",
        ),
        started_actors(config, inputs) as actors,
    ):
        return _iterate(config, inputs, actors, run_folder)


@contextmanager
def started_actors(config: TrainPPOConfig, inputs: PPOInputs) -> Iterator[PPOActors]:
    """All actors, loading side by side; they end with the block."""
    placed, ppo = config.actors, config.ppo
    actors = PPOActors(
        rollout=ActorGroup.start("rollout", placed.rollout, RolloutActor, placed.rollout),
        policy=ActorGroup.start("policy", placed.policy, PolicyActor, placed.policy),
        critic=ActorGroup.start("critic", placed.critic, CriticActor, placed.critic)
        if ppo.uses_critic
        else None,
        reference=ActorGroup.start("reference", placed.reference, ReferenceActor, placed.reference),
        reward=ActorGroup.start("reward", placed.reward, RewardActor, placed.reward),
    )
    num_steps = ppo.num_optimizer_steps(_num_iterations(config, inputs))
    temperature = config.rollout.sampling.temperature
    try:
        loading: list[Pending[object]] = [
            actors.rollout.call(
                RolloutActor.load, inputs.policy, config.rollout, pad_id=inputs.pad_id
            ),
            actors.policy.call(
                PolicyActor.load, inputs.policy, ppo, num_steps=num_steps, temperature=temperature
            ),
            actors.reference.call(
                ReferenceActor.load,
                inputs.policy,
                temperature=temperature,
                max_rows=ppo.micro_batch_size,
            ),
            actors.reward.call(
                RewardActor.load,
                config.rewards,
                preference_model=inputs.preference_model,
                policy=inputs.policy,
                max_rows=ppo.micro_batch_size,
            ),
        ]
        if actors.critic:
            loading.append(
                actors.critic.call(
                    CriticActor.load,
                    inputs.preference_model,
                    ppo,
                    num_steps=num_steps,
                    score_scale=inputs.score_scale,
                )
            )
        for pending in loading:
            pending.wait(config.timeouts.start_s)
        yield actors
    finally:
        actors.stop()


def _iterate(
    config: TrainPPOConfig, inputs: PPOInputs, actors: PPOActors, run_folder: str
) -> PPOResult:
    iteration, kl_coefficient, totals, normalizer_state = _restore(config, actors, run_folder)
    num_iterations = _num_iterations(config, inputs)
    weights = WeightSync(
        actors.policy,
        actors.rollout,
        probe_ids=inputs.prompts.prompts[0],
        timeout_s=config.timeouts.sync_s,
    )
    trainer = PPOTrainer(
        actors,
        weights,
        inputs,
        config,
        iteration=iteration,
        kl_coefficient=kl_coefficient,
        normalizer_state=normalizer_state,
    )
    progress = Progress(
        "train_ppo", num_iterations, "iterations", run_folder, done_before=iteration
    )
    began = time.monotonic()
    try:
        weights.push(iteration)
        with (
            progress,
            PPOWatch(
                config,
                run_folder,
                actors.policy,
                tokenizer_folder=inputs.policy,
                iteration=iteration,
            ) as watch,
        ):
            while trainer.iteration < num_iterations and watch.stopped_by is None:
                report = trainer.step()
                totals.add(report)
                watch.record(report)
                progress.update(done=report.iteration, note=live_note(report))
                if report.iteration % config.checkpoint_every == 0:
                    watch.keep_candidate(report.iteration)
                    _save_state(config, actors, run_folder, trainer, totals)
            notes = watch.finish(join(run_folder, CHECKPOINT))
            cost = _cost(config, actors, totals, seconds=time.monotonic() - began)
    finally:
        weights.close()
    return _result(inputs, totals, watch.last | cost, notes)


def _cost(
    config: TrainPPOConfig, actors: PPOActors, totals: PPOTotals, *, seconds: float
) -> dict[str, float]:
    """What this attempt used, and the tokens of all."""
    pending = actors.run(measure_usage)
    used = [measure_own_usage(), *(one for p in pending for one in p.wait(config.timeouts.save_s))]
    num_gpus = sum(role.num_gpus * role.num_ranks for role in config.started_roles.values())
    return usage_metrics(used, gpu_s=num_gpus * seconds) | {
        names.TRAIN_TOKENS: float(totals.num_tokens)
    }


def _restore(
    config: TrainPPOConfig, actors: PPOActors, run_folder: str
) -> tuple[int, float, PPOTotals, dict[str, float]]:
    """Iterations done, beta, totals, what the normalizer saw; policy and critic load that state."""
    found = load_latest_training_state(join(run_folder, STATES))
    if found is None:
        return 0, config.ppo.kl_coefficient, PPOTotals(), {}
    iteration, path = found
    with tempfile.TemporaryDirectory(prefix="moss-ppo-") as scratch:
        local = fetch_training_state(path, scratch)
        policy = actors.policy.call(PolicyActor.load_state, join(local, "policy"))
        if actors.critic:
            critic = actors.critic.call(CriticActor.load_state, join(local, "critic"))
            critic.only(config.timeouts.save_s)
        policy.only(config.timeouts.save_s)
        stored = json.loads(Path(local, _CONTROLLER_FILE).read_text(encoding="utf-8"))
    return iteration, stored["kl_coefficient"], PPOTotals(**stored["totals"]), stored["normalizer"]


def _save_state(
    config: TrainPPOConfig,
    actors: PPOActors,
    run_folder: str,
    trainer: PPOTrainer,
    totals: PPOTotals,
) -> None:
    """The whole state after an iteration. Prompts, seeds and schedule follow from its number."""

    def write(folder: str) -> None:
        policy = actors.policy.call(PolicyActor.save_state, join(folder, "policy"))
        stored = trainer.state() | {"totals": asdict(totals)}
        Path(folder, _CONTROLLER_FILE).write_text(json.dumps(stored), encoding="utf-8")
        if actors.critic:
            critic = actors.critic.call(CriticActor.save_state, join(folder, "critic"))
            critic.only(config.timeouts.save_s)
        policy.only(config.timeouts.save_s)

    states = join(run_folder, STATES)
    save_training_state(states, trainer.iteration, write, keep=config.keep_checkpoints)


def _result(
    inputs: PPOInputs, totals: PPOTotals, metrics: dict[str, float], notes: tuple[str, ...]
) -> PPOResult:
    num_dropped = len(totals.dropped)
    return PPOResult(
        counts={
            "prompts": {
                "ok": len(inputs.prompts.prompts),
                "failed": 0,
                "filtered": inputs.prompts.num_filtered,
                "skipped": 0,
            },
            "rollouts": {
                "ok": totals.num_responses - num_dropped,
                "failed": num_dropped,
                "filtered": 0,
                "skipped": 0,
            },
        },
        metrics={name: value for name, value in metrics.items() if math.isfinite(value)},
        dropped=totals.dropped,
        notes=notes,
    )


def _num_iterations(config: TrainPPOConfig, inputs: PPOInputs) -> int:
    return config.num_iterations or inputs.prompts.num_iterations(config.ppo.num_prompts)
