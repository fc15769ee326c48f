"""The whole state of a PPO run between two iterations: what it is, how it is saved and restored.

It is the weights, optimizer and place in the schedule of policy and critic, the adaptive
coefficient and the counts. Prompts, seeds and minibatch order follow from the iteration's number.
Responses made ahead are part of it: the weights that sampled them are gone.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

from actors.critic import CriticActor
from actors.generation import Responses
from actors.policy import PolicyActor
from actors.ppo_trainer import IterationReport, PPOActors, PPOTrainer
from moss.checkpoints import fetch_training_state, load_latest_training_state
from moss.config.ppo import TrainPPOConfig
from moss.errors import StorageError
from moss.faults import FaultLog
from moss.rollouts import RolloutBatch
from moss.state_writer import StateWriter
from moss.storage import join

STATES = "states"
_CONTROLLER_FILE = "controller.json"
_AHEAD_FILE = "ahead.npz"


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
class RestoredRun:
    """What a run goes on with, besides policy and critic."""

    iteration: int
    """Iterations done."""
    kl_coefficient: float
    normalizer_state: dict[str, float]
    """Empty at the start."""
    totals: PPOTotals
    ahead: Responses | None
    """Of the next iteration, where they were made ahead."""


def restore_state(config: TrainPPOConfig, actors: PPOActors, run_folder: str) -> RestoredRun:
    """The last whole state, which policy and critic load, or the beginning."""
    found = load_latest_training_state(join(run_folder, STATES))
    if found is None:
        return RestoredRun(0, config.ppo.kl_coefficient, {}, PPOTotals(), None)
    iteration, path = found
    with tempfile.TemporaryDirectory(prefix="moss-ppo-") as scratch:
        local = fetch_training_state(path, scratch)
        policy = actors.policy.call(PolicyActor.load_state, join(local, "policy"))
        if actors.critic:
            critic = actors.critic.call(CriticActor.load_state, join(local, "critic"))
            critic.wait(config.timeouts.save_s)
        policy.wait(config.timeouts.save_s)
        stored = json.loads(Path(local, _CONTROLLER_FILE).read_text(encoding="utf-8"))
        ahead = _read_ahead(Path(local, _AHEAD_FILE), stored.get("ahead_metrics"))
    return RestoredRun(
        iteration,
        stored["kl_coefficient"],
        stored["normalizer"],
        PPOTotals(**stored["totals"]),
        ahead,
    )


def _read_ahead(file: Path, metrics: dict[str, float] | None) -> Responses | None:
    return None if metrics is None else Responses(RolloutBatch.load(file), metrics)


def state_writer(config: TrainPPOConfig, run_folder: str, faults: FaultLog) -> StateWriter:
    """Where the states of a run go."""
    return StateWriter(
        join(run_folder, STATES),
        keep=config.keep_checkpoints,
        keep_best=config.faults.keep_best,
        max_failed=config.faults.max_failed_saves,
        timeout_s=config.timeouts.save_s,
        report_failure=faults.failed_save,
    )


def save_state(
    writer: StateWriter,
    actors: PPOActors,
    trainer: PPOTrainer,
    totals: PPOTotals,
    config: TrainPPOConfig,
    report: IterationReport,
) -> None:
    """Begin to save the whole state after an iteration, which its mean score ranks."""

    def snapshot(folder: str) -> None:
        stored = trainer.state() | {"totals": asdict(totals)}
        if trainer.ahead is not None:
            stored["ahead_metrics"] = trainer.ahead.metrics
            trainer.ahead.batch.save(Path(folder, _AHEAD_FILE))
        Path(folder, _CONTROLLER_FILE).write_text(json.dumps(stored), encoding="utf-8")
        parts = [actors.policy.call(PolicyActor.save_state, join(folder, "policy"))]
        if actors.critic:
            parts.append(actors.critic.call(CriticActor.save_state, join(folder, "critic")))
        refused: StorageError | None = None
        for part in parts:
            try:
                part.wait(config.timeouts.save_s)
            except StorageError as error:
                refused = error  # the other part must end before the folder can be removed
        if refused is not None:
            raise refused

    writer.save(trainer.iteration, snapshot, score=report.experience.score)
