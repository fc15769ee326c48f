"""A whole PPO run: start the actors, restore, iterate with checkpoints, save the policy."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from actors.cluster import connect
from actors.critic import CriticActor
from actors.group import ActorGroup
from actors.pending import Pending
from actors.placement import plan_placement
from actors.policy import PolicyActor
from actors.ppo_metrics import live_note
from actors.ppo_recovery import guard_actors, run_with_resumes
from actors.ppo_state import PPOTotals, restore_state, save_state, state_writer
from actors.ppo_trainer import IterationReport, PPOActors, PPOTrainer
from actors.ppo_watch import PPOWatch
from actors.reference import ReferenceActor
from actors.reward import RewardActor
from actors.rollout import RolloutActor
from actors.trained import join_ranks
from actors.weight_sync import WeightSync
from moss import metrics as names
from moss.config.ppo import TrainPPOConfig
from moss.faults import FaultLog
from moss.ppo_inputs import PPOInputs, load_inputs
from moss.progress import Progress
from moss.rollout_dump import DumpRecord, RolloutDump, write_dump
from moss.secret_keys import collect_keys
from moss.storage import join
from moss.usage import measure_own_usage, measure_usage, usage_metrics

CHECKPOINT = "checkpoint"


@dataclass(frozen=True, slots=True)
class PPOResult:
    """What a finished run has to say."""

    counts: dict[str, dict[str, int]]
    metrics: dict[str, float]
    """Of the last iteration."""
    dropped: list[dict[str, str]]
    notes: tuple[str, ...]
    """What a reader of the checkpoint must know."""


def train_ppo(config: TrainPPOConfig, run_folder: str) -> PPOResult:
    """Run PPO to its end, from the last training state if there is one.

    Writes `states/` on the way and `checkpoint/` at the end. Lost actors are replaced, within the
    bounds of `config.faults`.

    Raises:
        DataError, ConfigError: inputs that PPO cannot start from.
        ResourceError: the cluster is too small, or actors died too often.
        StorageError: too many training states in a row, or the checkpoint, could not be written.
        WaitTimeoutError, WeightSyncError: a phase or a weight push did not end in time.
    """
    return run_ppo(config, load_inputs(config), run_folder)


def run_ppo(config: TrainPPOConfig, inputs: PPOInputs, run_folder: str) -> PPOResult:
    """The same from inputs at hand; what `config` says of theirs is not read."""
    placement = plan_placement(config.started_roles)
    faults = FaultLog(config.faults)
    with connect(
        num_cpus_needed=placement.num_cpus,
        num_gpus_needed=placement.num_gpus,
        what=f"train_ppo ({placement.arithmetic})",
    ):
        return run_with_resumes(
            lambda: started_actors(config, inputs),
            lambda actors: _iterate(config, inputs, actors, run_folder, faults),
            faults,
        )


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
            *join_ranks(actors.policy, config.timeouts.start_s),
            *(join_ranks(actors.critic, config.timeouts.start_s) if actors.critic else []),
            actors.rollout.prepare(
                RolloutActor.load, inputs.policy, config.rollout, pad_id=inputs.pad_id
            ),
            actors.policy.call(
                PolicyActor.load, inputs.policy, ppo, num_steps=num_steps, temperature=temperature
            ),
            actors.reference.prepare(
                ReferenceActor.load,
                inputs.policy,
                temperature=temperature,
                max_rows=ppo.micro_batch_size,
            ),
            actors.reward.prepare(
                RewardActor.load,
                config.rewards,
                preference_model=inputs.preference_model,
                policy=inputs.policy,
                max_rows=ppo.micro_batch_size,
                keys=collect_keys(config.rewards.key_names),
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
    config: TrainPPOConfig,
    inputs: PPOInputs,
    actors: PPOActors,
    run_folder: str,
    faults: FaultLog,
) -> PPOResult:
    restored = restore_state(config, actors, run_folder)
    iteration, totals = restored.iteration, restored.totals
    num_iterations = _num_iterations(config, inputs)
    weights = WeightSync(
        actors.policy,
        actors.rollout,
        run_folder=run_folder,
        probe_ids=inputs.prompts.prompts[0],
        timeout_s=config.timeouts.sync_s,
    )
    trainer = PPOTrainer(
        actors,
        weights,
        inputs,
        config,
        iteration=iteration,
        kl_coefficient=restored.kl_coefficient,
        normalizer_state=restored.normalizer_state,
    )
    progress = Progress(
        "train_ppo", num_iterations, "iterations", run_folder, done_before=iteration
    )
    guard_actors(actors, weights, config, faults)
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
            with state_writer(config, run_folder, faults) as writer:
                while trainer.iteration < num_iterations and watch.stopped_by is None:
                    report = trainer.step()
                    totals.add(report)
                    watch.record(report, faults.metrics())
                    progress.update(done=report.iteration, note=live_note(report))
                    if config.faults.dumps_rollouts_of(report.iteration):
                        write_dump(run_folder, _dump(report, watch.last))
                    if report.iteration % config.checkpoint_every == 0:
                        watch.keep_candidate(report.iteration)
                        save_state(writer, actors, trainer, totals, config, report)
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


def _dump(report: IterationReport, figures: dict[str, float]) -> RolloutDump:
    record = DumpRecord(
        iteration=report.iteration,
        kl_coefficient=report.kl_coefficient,
        score_mean=report.score_mean,
        score_scale=report.score_scale,
        figures=_finite(figures),
        dropped=tuple(report.dropped),
    )
    return RolloutDump(record, report.scored)


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
        metrics=_finite(metrics),
        dropped=totals.dropped,
        notes=notes,
    )


def _finite(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def _num_iterations(config: TrainPPOConfig, inputs: PPOInputs) -> int:
    return config.num_iterations or inputs.prompts.num_iterations(config.ppo.num_prompts)
