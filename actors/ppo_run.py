"""A whole PPO run: start the actors, restore, iterate with checkpoints, save the policy."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from actors.cluster import connect
from actors.critic import CriticActor
from actors.group import ActorGroup
from actors.pending import Pending
from actors.placement import plan_placement
from actors.policy import PolicyActor
from actors.ppo_recovery import guard_actors, run_with_resumes
from actors.ppo_state import PPOTotals, restore_state, save_state, state_writer
from actors.ppo_trainer import IterationReport, PPOActors, PPOTrainer
from actors.reference import ReferenceActor
from actors.reward import RewardActor
from actors.rollout import RolloutActor
from actors.weight_sync import WeightSync
from moss import metrics as names
from moss.config.ppo import TrainPPOConfig
from moss.faults import FaultLog
from moss.ppo_inputs import PPOInputs, load_inputs
from moss.progress import Progress
from moss.rollout_dump import DumpRecord, RolloutDump, write_dump
from moss.storage import join
from moss.tracking import Tracker

CHECKPOINT = "checkpoint"


@dataclass(frozen=True, slots=True)
class PPOResult:
    """What a finished run has to say."""

    counts: dict[str, dict[str, int]]
    metrics: dict[str, float]
    """Of the last iteration."""
    dropped: list[dict[str, str]]


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
    inputs = load_inputs(config)
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
                RewardActor.load, inputs.preference_model, max_rows=ppo.micro_batch_size
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
    iteration, kl_coefficient, totals = restore_state(config, actors, run_folder)
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
    )
    last: dict[str, float] = {}
    progress = Progress(
        "train_ppo", num_iterations, "iterations", run_folder, done_before=iteration
    )
    guard_actors(actors, weights, config, faults)
    try:
        weights.push(iteration)
        with (
            progress,
            Tracker(run_folder, resume_step=iteration) as tracker,
            state_writer(config, run_folder, faults) as writer,
        ):
            while trainer.iteration < num_iterations:
                report = trainer.step()
                totals.add(report)
                last = report_metrics(report) | faults.metrics()
                tracker.log(report.iteration, last)
                progress.update(done=report.iteration, note=_note(report))
                if config.faults.dumps_rollouts_of(report.iteration):
                    write_dump(run_folder, _dump(report, last))
                if report.iteration % config.checkpoint_every == 0:
                    save_state(
                        writer,
                        actors,
                        trainer,
                        totals,
                        score=report.experience.score,
                        timeout_s=config.timeouts.save_s,
                    )
        save = actors.policy.call(PolicyActor.save_checkpoint, join(run_folder, CHECKPOINT))
        save.wait(config.timeouts.save_s)
    finally:
        weights.close()
    return _result(inputs, totals, last)


def report_metrics(report: IterationReport) -> dict[str, float]:
    """An iteration as named metrics; those of a model that was not updated are left out."""
    seen, seconds = report.experience, report.seconds
    measured = {
        names.ROLLOUT_SCORE: seen.score,
        names.ROLLOUT_LENGTH: seen.length_tokens,
        names.ROLLOUT_STOPPED: seen.stopped_fraction,
        names.ROLLOUT_KL: seen.kl_nats,
        names.ROLLOUT_LOGPROB_GAP: seen.logprob_gap_nats,
        names.ROLLOUT_STALENESS: 0.0,
        names.PPO_KL_COEFFICIENT: report.kl_coefficient,
        names.TIME_ROLLOUT: seconds["rollout"],
        names.TIME_SCORE: seconds["score"],
        names.TIME_UPDATE: seconds["update"],
        names.TIME_WEIGHT_PUSH: seconds["weight_push"],
        names.TIME_STEP: sum(seconds.values()),
    }
    if seen.explained_variance is not None:
        measured[names.PPO_EXPLAINED_VARIANCE] = seen.explained_variance
    if seen.importance is not None:
        measured[names.PPO_IMPORTANCE_WEIGHT] = seen.importance.weight
        measured[names.PPO_IMPORTANCE_CAPPED] = seen.importance.capped_fraction
    if report.critic is not None:
        measured |= {
            names.PPO_VALUE_LOSS: report.critic.loss,
            names.PPO_VALUE_CLIPPED: report.critic.clip_fraction,
            names.PPO_VALUE_GRADIENT_NORM: report.critic.gradient_norm,
            names.PPO_VALUE_SKIPPED: float(report.critic.num_skipped),
        }
    if report.policy is not None:
        measured |= {
            names.PPO_POLICY_LOSS: report.policy.loss,
            names.PPO_CLIPPED: report.policy.clip_fraction,
            names.PPO_KL: report.policy.approximate_kl,
            names.PPO_FIRST_RATIO_GAP: report.policy.first_ratio_gap,
            names.PPO_LEFT_OUT: float(report.policy.num_left_out),
            names.PPO_POLICY_GRADIENT_NORM: report.policy.gradient_norm,
            names.PPO_POLICY_SKIPPED: float(report.policy.num_skipped),
            names.TRAIN_LEARNING_RATE: report.policy.learning_rate,
        }
    return measured


def _dump(report: IterationReport, figures: dict[str, float]) -> RolloutDump:
    record = DumpRecord(
        iteration=report.iteration,
        kl_coefficient=report.kl_coefficient,
        figures=_finite(figures),
        dropped=tuple(report.dropped),
    )
    return RolloutDump(record, report.scored)


def _note(report: IterationReport) -> str:
    seen = report.experience
    tokens_per_s = report.num_response_tokens / sum(report.seconds.values())
    phases = " ".join(f"{phase} {seconds:.2f}" for phase, seconds in report.seconds.items())
    return (
        f"score {seen.score:.2f} kl {seen.kl_nats:.2f} length {seen.length_tokens:.0f} "
        f"{tokens_per_s:.0f} tokens/s ({phases} s)"
    )


def _result(inputs: PPOInputs, totals: PPOTotals, last: dict[str, float]) -> PPOResult:
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
        metrics=_finite(last),
        dropped=totals.dropped,
    )


def _finite(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def _num_iterations(config: TrainPPOConfig, inputs: PPOInputs) -> int:
    return config.num_iterations or inputs.prompts.num_iterations(config.ppo.num_prompts)
