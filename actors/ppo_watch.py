"""What watches a PPO run: metrics, samples, monitors, and the best policy under their limits.

A stop is orderly. The checkpoint of a stopped run is the policy with the highest score of those
that passed no limit, `warn` included; candidates are the policies of every `checkpoint_every`
iterations, and each is judged by the iteration after it, whose rollouts it sampled.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import TracebackType
from typing import Final, Self, cast

from actors.group import ActorGroup
from actors.policy import PolicyActor
from actors.ppo_metrics import RayGauges, report_metrics
from actors.ppo_trainer import IterationReport
from moss import storage
from moss.config.ppo import TrainPPOConfig
from moss.errors import TrainingStoppedError
from moss.monitors import Alarm, Monitors
from moss.samples import SampleLog, pick_samples, samples_markdown
from moss.storage import join
from moss.tokenizer import MossTokenizer
from moss.tracking import Tracker, read_metrics
from moss.tracking_services import start_services

CANDIDATE: Final = "candidate"
BEST: Final = "best"
_CHECKPOINT: Final = "checkpoint"
_RECORD: Final = "record.json"

logger = logging.getLogger(__name__)


class PPOWatch:
    """Made where a run starts or resumes; sees every iteration."""

    def __init__(
        self,
        config: TrainPPOConfig,
        run_folder: str,
        policy: ActorGroup[PolicyActor],
        *,
        tokenizer_folder: str,
        iteration: int,
    ) -> None:
        """Watch from after `iteration` on; what is on record of later ones will be made again."""
        self._config, self._folder, self._policy = config, run_folder, policy
        self._monitors = Monitors(config.monitors)
        self.stopped_by: Alarm | None = None
        """The alarm that ends the run."""
        self.last: dict[str, float] = {}
        """Metrics of the last iteration."""
        for step, metrics in read_metrics(run_folder):
            if step <= iteration:
                self._observe(step, metrics)
        services = start_services(config.tracking, run_folder, run_id=config.run_id)
        self._tracker = Tracker(run_folder, resume_step=iteration, services=services)
        self._samples = SampleLog(run_folder, resume_step=iteration)
        self._decode = MossTokenizer.load(tokenizer_folder).decode
        self._gauges = RayGauges(config.run_id) if config.ray_metrics else None

    def record(self, report: IterationReport, faults: Mapping[str, float]) -> None:
        """Log one iteration, look at its limits, judge the candidate that sampled it.

        Args:
            faults: metrics of what the run survived so far.
        """
        metrics = report_metrics(report, ngram_tokens=self._config.monitors.ngram_tokens)
        metrics |= faults
        self._tracker.log(report.iteration, metrics)
        if self._gauges is not None:
            self._gauges.set(metrics)
        every = self._config.sample_every
        if every and (report.iteration % every == 0 or report.iteration == 1):
            self._show_samples(report)
        self._observe(report.iteration, metrics)
        for alarm in self._monitors.alarms:
            logger.warning("%s: %s", alarm.level, alarm)
        self._judge_candidate(report)

    def keep_candidate(self, iteration: int) -> None:
        """Set the present policy aside, which the next iteration will judge."""
        folder = join(self._folder, CANDIDATE)
        storage.remove(folder)
        saved = self._policy.call(PolicyActor.save_checkpoint, join(folder, _CHECKPOINT))
        saved.wait(self._config.timeouts.save_s)
        storage.write_json(join(folder, _RECORD), {"iteration": iteration})

    def finish(self, checkpoint: str) -> tuple[str, ...]:
        """Write the run's checkpoint: the last policy or, of a stopped run, the best.

        Returns: what a reader of the checkpoint must know.
        Raises:
            TrainingStoppedError: a monitor stopped the run before any policy was judged good.
        """
        storage.remove(join(self._folder, CANDIDATE))
        if self.stopped_by is None:
            saved = self._policy.call(PolicyActor.save_checkpoint, checkpoint)
            saved.wait(self._config.timeouts.save_s)
            storage.remove(join(self._folder, BEST))
            return ()
        best = self._require_best()
        weights = join(self._folder, BEST, _CHECKPOINT)
        if storage.is_folder(weights):  # else it was moved before a kill
            storage.publish_folder(weights, checkpoint)
        return (
            f"stopped by monitor {self.stopped_by}; the checkpoint is the policy of iteration "
            f"{best['iteration']}, the best that passed no limit (score {best['score']:.3f}, KL "
            f"{best['kl_nats']:.2f} nats per response)",
        )

    def _observe(self, step: int, metrics: dict[str, float]) -> None:
        self.last = metrics
        self.stopped_by = self._monitors.observe(step, metrics) or self.stopped_by

    def _show_samples(self, report: IterationReport) -> None:
        samples = pick_samples(report.scored, self._decode, num_samples=self._config.num_samples)
        self._samples.write(report.iteration, samples)
        self._tracker.log_text(report.iteration, "rollout/samples", samples_markdown(samples))

    def _judge_candidate(self, report: IterationReport) -> None:
        """The rollouts of an iteration were sampled by the policy of the one before."""
        candidate, best = self._record_of(CANDIDATE), self._record_of(BEST)
        if not candidate or candidate["iteration"] != report.iteration - 1:
            return
        score, folder = report.experience.score, join(self._folder, CANDIDATE)
        if self._monitors.alarms or (best and best["score"] >= score):
            storage.remove(folder)
            return
        seen = {"score": score, "kl_nats": report.experience.kl_nats}
        storage.write_json(join(folder, _RECORD), candidate | seen)
        storage.publish_folder(folder, join(self._folder, BEST))

    def _record_of(self, name: str) -> dict[str, float]:
        """What is on record of a policy set aside; empty if none is."""
        path = join(self._folder, name, _RECORD)
        return cast(dict[str, float], storage.read_json(path)) if storage.exists(path) else {}

    def _require_best(self) -> dict[str, float]:
        if best := self._record_of(BEST):
            return best
        raise TrainingStoppedError(
            f"a monitor stopped the run ({self.stopped_by}), and no policy of an earlier "
            f"checkpoint (every {self._config.checkpoint_every} iterations) was within the limits; "
            "lower ppo.policy_learning_rate, raise ppo.kl_coefficient, set aside more often "
            "(checkpoint_every) or move the limit under monitors, and give --restart"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._tracker.close()
        self._samples.__exit__(kind, error, trace)
