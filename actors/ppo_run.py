"""A whole PPO run: start the actors, restore, iterate with checkpoints, save the policy."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from actors.cluster import connect
from actors.critic import CriticActor
from actors.group import ActorGroup, Pending
from actors.placement import plan_placement
from actors.policy import PolicyActor
from actors.ppo_trainer import IterationReport, PPOActors, PPOTrainer
from actors.reference import ReferenceActor
from actors.reward import RewardActor
from actors.rollout import RolloutActor
from actors.trained import join_ranks
from actors.weight_sync import WeightSync
from moss import metrics as names
from moss.checkpoints import fetch_training_state, load_latest_training_state, save_training_state
from moss.config.ppo import TrainPPOConfig
from moss.ppo_inputs import PPOInputs, load_inputs
from moss.progress import Progress
from moss.storage import join
from moss.tracking import Tracker

STATES = "states"
CHECKPOINT = "checkpoint"
_CONTROLLER_FILE = "controller.json"


@dataclass(slots=True)
class PPOTotals:
    """Counts over all iterations; part of every training state."""

    num_responses: int = 0
    dropped: list[dict[str, str]] = field(default_factory=list)
    """Iteration, row and reason of each response without a reward."""

    def add(self, report: IterationReport) -> None:
        """Count one iteration."""
        self.num_responses += report.num_responses
        self.dropped += [{"iteration": str(report.iteration), **row} for row in report.dropped]


@dataclass(frozen=True, slots=True)
class PPOResult:
    """What a finished run has to say."""

    counts: dict[str, dict[str, int]]
    metrics: dict[str, float]
    """Of the last iteration."""
    dropped: list[dict[str, str]]


def train_ppo(config: TrainPPOConfig, run_folder: str) -> PPOResult:
    """Run PPO to its end, from the last training state if there is one.

    Writes `states/` on the way and `checkpoint/` at the end.

    Raises:
        DataError, ConfigError: inputs that PPO cannot start from.
        ResourceError: the cluster is too small, or an actor died.
        WaitTimeoutError, WeightSyncError: a phase or a weight push did not end in time.
    """
    inputs = load_inputs(config)
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
            *join_ranks(actors.policy, config.timeouts.start_s),
            *(join_ranks(actors.critic, config.timeouts.start_s) if actors.critic else []),
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
    config: TrainPPOConfig, inputs: PPOInputs, actors: PPOActors, run_folder: str
) -> PPOResult:
    iteration, kl_coefficient, totals = _restore(config, actors, run_folder)
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
        kl_coefficient=kl_coefficient,
    )
    last: dict[str, float] = {}
    progress = Progress(
        "train_ppo", num_iterations, "iterations", run_folder, done_before=iteration
    )
    try:
        weights.push(iteration)
        with progress, Tracker(run_folder, resume_step=iteration) as tracker:
            while trainer.iteration < num_iterations:
                report = trainer.step()
                totals.add(report)
                last = report_metrics(report)
                tracker.log(report.iteration, last)
                progress.update(done=report.iteration, note=_note(report))
                if report.iteration % config.checkpoint_every == 0:
                    _save_state(config, actors, run_folder, trainer, totals)
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


def _note(report: IterationReport) -> str:
    seen = report.experience
    tokens_per_s = report.num_response_tokens / sum(report.seconds.values())
    phases = " ".join(f"{phase} {seconds:.2f}" for phase, seconds in report.seconds.items())
    return (
        f"score {seen.score:.2f} kl {seen.kl_nats:.2f} length {seen.length_tokens:.0f} "
        f"{tokens_per_s:.0f} tokens/s ({phases} s)"
    )


def _restore(
    config: TrainPPOConfig, actors: PPOActors, run_folder: str
) -> tuple[int, float, PPOTotals]:
    """Iterations done, beta and totals; loads policy and critic from the last whole state."""
    found = load_latest_training_state(join(run_folder, STATES))
    if found is None:
        return 0, config.ppo.kl_coefficient, PPOTotals()
    iteration, path = found
    with tempfile.TemporaryDirectory(prefix="moss-ppo-") as scratch:
        local = fetch_training_state(path, scratch)
        policy = actors.policy.call(PolicyActor.load_state, join(local, "policy"))
        if actors.critic:
            critic = actors.critic.call(CriticActor.load_state, join(local, "critic"))
            critic.wait(config.timeouts.save_s)
        policy.wait(config.timeouts.save_s)
        stored = json.loads(Path(local, _CONTROLLER_FILE).read_text(encoding="utf-8"))
    return iteration, stored["kl_coefficient"], PPOTotals(**stored["totals"])


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
        stored = {"kl_coefficient": trainer.kl_coefficient, "totals": asdict(totals)}
        Path(folder, _CONTROLLER_FILE).write_text(json.dumps(stored), encoding="utf-8")
        if actors.critic:
            critic = actors.critic.call(CriticActor.save_state, join(folder, "critic"))
            critic.wait(config.timeouts.save_s)
        policy.wait(config.timeouts.save_s)

    states = join(run_folder, STATES)
    save_training_state(states, trainer.iteration, write, keep=config.keep_checkpoints)


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
        metrics={name: value for name, value in last.items() if math.isfinite(value)},
        dropped=totals.dropped,
    )


def _num_iterations(config: TrainPPOConfig, inputs: PPOInputs) -> int:
    return config.num_iterations or inputs.prompts.num_iterations(config.ppo.num_prompts)
