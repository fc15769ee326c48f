"""A whole PPO run: start the actors, restore, iterate with checkpoints, save the policy."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass

from actors.cluster import connect
from actors.placement import plan_placement
from actors.ppo_metrics import live_note
from actors.ppo_recovery import guard_actors, run_with_resumes
from actors.ppo_start import started_actors
from actors.ppo_state import PPOTotals, restore_state, save_state, state_writer
from actors.ppo_trainer import IterationReport, PPOActors, PPOTrainer
from actors.ppo_watch import PPOWatch
from actors.weight_sync import WeightSync
from moss import metrics as names
from moss.config.ppo import TrainPPOConfig
from moss.faults import FaultLog
from moss.ppo_inputs import PPOInputs, load_inputs
from moss.progress import Progress
from moss.rollout_dump import DumpRecord, RolloutDump, write_dump
from moss.staleness import uncorrected_staleness
from moss.storage import join
from moss.usage import measure_own_usage, measure_usage, usage_metrics

CHECKPOINT = "checkpoint"

logger = logging.getLogger(__name__)


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
    if warning := uncorrected_staleness(config):
        logger.warning(warning)
    placement = plan_placement(config.started_roles, config.placement)
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


def _iterate(
    config: TrainPPOConfig,
    inputs: PPOInputs,
    actors: PPOActors,
    run_folder: str,
    faults: FaultLog,
) -> PPOResult:
    restored = restore_state(config, actors, run_folder)
    iteration, totals = restored.iteration, restored.totals
    num_iterations = inputs.num_iterations(config)
    if iteration:
        logger.warning("goes on after iteration %d of %d", iteration, num_iterations)
    weights = _weight_sync(config, inputs, actors, run_folder)
    trainer = PPOTrainer(
        actors,
        weights,
        inputs,
        config,
        iteration=iteration,
        kl_coefficient=restored.kl_coefficient,
        normalizer_state=restored.normalizer_state,
        ahead=restored.ahead,
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
                    is_checkpoint = report.iteration % config.checkpoint_every == 0
                    if is_checkpoint:
                        watch.keep_candidate(report.iteration)
                    # A replay of a dumped iteration begins with the state before it.
                    if is_checkpoint or config.faults.dumps_rollouts_of(report.iteration + 1):
                        save_state(writer, actors, trainer, totals, config, report)
            notes = watch.finish(join(run_folder, CHECKPOINT))
            cost = _cost(config, actors, totals, seconds=time.monotonic() - began)
    finally:
        weights.close()
    return _result(inputs, totals, watch.last | cost, notes)


def _weight_sync(
    config: TrainPPOConfig, inputs: PPOInputs, actors: PPOActors, run_folder: str
) -> WeightSync:
    return WeightSync(
        actors.policy,
        actors.rollout,
        run_folder=run_folder,
        probe_ids=inputs.prompts.prompts[0],
        timeouts=config.timeouts,
        rollout=config.rollout,
    )


def _cost(
    config: TrainPPOConfig, actors: PPOActors, totals: PPOTotals, *, seconds: float
) -> dict[str, float]:
    """What this attempt used, and the tokens of all."""
    pending = actors.run(measure_usage)
    used = [measure_own_usage(), *(one for p in pending for one in p.wait(config.timeouts.save_s))]
    num_gpus = plan_placement(config.started_roles, config.placement).num_gpus
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
