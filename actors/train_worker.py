"""Ray Train worker loop shared by pre-training, SFT, preference model and PAT.

The controller (`train`) starts a `TorchTrainer`; each worker fixes its threads, runs
`moss.training.run_training`, and rank 0 writes metrics. A crashed worker group is restarted by Ray
Train and goes on from the last training state. Progress reaches the driver's terminal through a
small file that rank 0 rewrites and the driver polls: worker output is no terminal.
"""

from __future__ import annotations

import logging
import os
import pickle
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Self

import ray.train
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

from actors.cluster import connect
from moss import metrics, storage
from moss.checkpoints import load_latest_training_state
from moss.config.optimization import ParallelConfig, TrainingConfig
from moss.errors import MossError
from moss.progress import Progress
from moss.tracking import Tracker
from moss.tracking_services import start_services
from moss.usage import Usage, measure_own_usage, measure_usage, usage_metrics

if TYPE_CHECKING:
    from moss.training import StepReport, TrainingTask

STATES_FOLDER = "states"
WORK_FOLDER = "work"
PROGRESS_FILE = "training-progress.json"
RESULT_FILE = "training-result.json"
USAGE_PREFIX = "training-usage-"
"""Of the files in which every rank says what it used."""
_POLL_S = 0.5
_REPORT_EVERY_S = 1.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerSettings:
    """What every worker of one run needs."""

    task: TrainingTask
    run_folder: str


def train(task: TrainingTask, *, stage: str, run_folder: str, num_steps: int) -> dict[str, float]:
    """Train on the cluster that the process is connected to, or on a private one.

    Args:
        task: model, data and export; paths in it must be visible to every worker.
        stage: name for the progress line.
        run_folder: where training states and metrics go.
        num_steps: optimizer steps that the task will take, for the progress line.
    Returns: the final metrics, those of the export included.
    Raises:
        ResourceError: the cluster cannot hold the workers.
        MossError: a worker failed more often than `max_failures` allows.
    """
    with (
        connect_for(task.training, stage=stage),
        tempfile.TemporaryDirectory(prefix="moss-train-") as scratch,
        _live_progress(stage, run_folder, num_steps),
    ):
        began = time.monotonic()
        _fit(_trainer(WorkerSettings(task, run_folder), scratch))
        seconds = time.monotonic() - began
    final = storage.read_json(storage.join(run_folder, RESULT_FILE))
    assert isinstance(final, dict), "rank 0 wrote a mapping"
    cost = _cost(task.training.parallel, run_folder, seconds=seconds)
    return {str(name): float(value) for name, value in final.items()} | cost


def connect_for(training: TrainingConfig, *, stage: str) -> AbstractContextManager[None]:
    """A cluster that can hold the workers; see `actors.cluster.connect`."""
    parallel = training.parallel
    return connect(
        num_cpus_needed=parallel.num_workers * parallel.cpus_per_worker,
        num_gpus_needed=parallel.num_workers if parallel.device == "cuda" else 0,
        what=f"{stage} with {parallel.num_workers} training worker(s)",
    )


def _cost(parallel: ParallelConfig, run_folder: str, *, seconds: float) -> dict[str, float]:
    """What this process and the workers of this attempt used."""
    used = [measure_own_usage()]
    for rank in range(parallel.num_workers):
        path = storage.join(run_folder, f"{USAGE_PREFIX}{rank}.json")
        stored = storage.read_json(path)
        assert isinstance(stored, dict), "each rank wrote a mapping"
        used.append(Usage(**stored))
        storage.remove(path)
    num_gpus = parallel.num_workers if parallel.device == "cuda" else 0
    return usage_metrics(used, gpu_s=num_gpus * seconds)


def discard_states(run_folder: str) -> None:
    """Delete what only an unfinished run needs: training states and tokenized data."""
    for name in (STATES_FOLDER, WORK_FOLDER, RESULT_FILE):
        storage.remove(storage.join(run_folder, name))


def run_worker(loop_config: dict[str, bytes]) -> None:
    """What each worker does; called by Ray Train inside its process group."""
    import torch

    settings: WorkerSettings = pickle.loads(loop_config["settings"])
    torch.set_num_threads(settings.task.training.parallel.num_threads)
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    states = storage.join(settings.run_folder, STATES_FOLDER)
    rank = ray.train.get_context().get_world_rank()
    _train_rank(settings, states, rank)
    usage = storage.join(settings.run_folder, f"{USAGE_PREFIX}{rank}.json")
    storage.write_json(usage, asdict(measure_usage()))


def _train_rank(settings: WorkerSettings, states: str, rank: int) -> None:
    from moss.training import run_training

    if rank:
        run_training(settings.task, states, _ignore)
        return
    with _StepLog(settings.run_folder, settings.task.training, states) as log:
        final = run_training(settings.task, states, log.record)
        final |= log.totals()
    storage.write_json(storage.join(settings.run_folder, RESULT_FILE), final)


class _StepLog:
    """Rank 0's record of steps: metrics every few steps, the progress file every second."""

    def __init__(self, run_folder: str, training: TrainingConfig, states: str) -> None:
        resumed = load_latest_training_state(states)
        self._tracker = Tracker(
            run_folder,
            resume_step=resumed[0] if resumed else 0,
            services=start_services(
                training.tracking, run_folder, run_id=os.path.basename(run_folder)
            ),
        )
        self._progress_path = storage.join(run_folder, PROGRESS_FILE)
        self._log_every_steps = training.log_every_steps
        self._num_tokens, self._seconds, self._last_loss = 0, 0.0, 0.0
        self._written_at = 0.0

    def record(self, report: StepReport) -> None:
        self._num_tokens += report.num_tokens
        self._seconds += report.seconds
        self._last_loss = report.loss
        last = report.step == report.num_steps
        if report.step % self._log_every_steps == 0 or report.step == 1 or last:
            self._tracker.log(
                report.step,
                {
                    metrics.TRAIN_LOSS: report.loss,
                    metrics.TRAIN_LEARNING_RATE: report.learning_rate,
                    metrics.TRAIN_GRADIENT_NORM: report.grad_norm,
                    metrics.TRAIN_THROUGHPUT: report.num_tokens / report.seconds,
                    "train/skipped_count": report.num_skipped,
                },
            )
        if last or time.monotonic() - self._written_at >= _REPORT_EVERY_S:
            self._written_at = time.monotonic()
            storage.write_json(
                self._progress_path,
                {
                    "step": report.step,
                    "note": f"loss {report.loss:.3f}, {self._rate():,.0f} tokens/s"
                    + (f", {report.num_skipped} skipped" if report.num_skipped else ""),
                },
            )

    def totals(self) -> dict[str, float]:
        """Over the steps of this attempt; nothing if an earlier one had done them all."""
        if not self._num_tokens:
            return {}
        return {
            metrics.TRAIN_TOKENS: float(self._num_tokens),
            metrics.TRAIN_THROUGHPUT: self._rate(),
            metrics.TRAIN_LOSS: self._last_loss,
        }

    def _rate(self) -> float:
        return self._num_tokens / max(self._seconds, 1e-9)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self._tracker.close()


def _ignore(report: StepReport) -> None:
    """Ranks above 0 record nothing."""


@contextmanager
def _live_progress(stage: str, run_folder: str, num_steps: int) -> Iterator[None]:
    """Show rank 0's progress file in this process until the block ends."""
    path = storage.join(run_folder, PROGRESS_FILE)
    storage.remove(path)
    done = threading.Event()
    with Progress(stage, num_steps, unit="steps", run_folder=run_folder) as progress:

        def poll() -> None:
            while not done.wait(_POLL_S):
                _show(path, progress)

        thread = threading.Thread(target=poll, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join(timeout=10 * _POLL_S)
            _show(path, progress)
            storage.remove(path)


def _show(path: str, progress: Progress) -> None:
    if not storage.exists(path):
        progress.update(note="starting workers")
        return
    seen = storage.read_json(path)
    assert isinstance(seen, dict), "rank 0 wrote a mapping"
    progress.update(done=seen["step"], note=seen["note"])


def _fit(trainer: TorchTrainer) -> None:
    """Run to the end; a worker's own MossError comes out as itself, not as Ray's report of it."""
    try:
        trainer.fit()
    except WorkerGroupError as error:
        for rank, failure in sorted(error.worker_failures.items()):
            cause = getattr(failure, "_base_exc", failure)
            if isinstance(cause, MossError):
                raise cause from error
            logger.debug("worker %d failed: %s", rank, failure)
        raise MossError(f"training workers failed: {error}") from error
    except TrainingFailedError as error:
        raise MossError(f"training could not run: {error}") from error


def _trainer(settings: WorkerSettings, scratch: str) -> TorchTrainer:
    training = settings.task.training
    parallel = training.parallel
    use_gpu = parallel.device == "cuda"
    resources = {"CPU": parallel.cpus_per_worker} | ({"GPU": 1.0} if use_gpu else {})
    return TorchTrainer(
        run_worker,
        # As bytes: the controller passes them on and need not import what training needs.
        train_loop_config={"settings": pickle.dumps(settings)},
        torch_config=TorchConfig(
            backend="nccl" if use_gpu else "gloo", timeout_s=int(parallel.collective_timeout_s)
        ),
        scaling_config=ray.train.ScalingConfig(
            num_workers=parallel.num_workers, use_gpu=use_gpu, resources_per_worker=resources
        ),
        run_config=ray.train.RunConfig(
            name=os.path.basename(settings.run_folder),
            storage_path=scratch,
            failure_config=ray.train.FailureConfig(max_failures=training.max_failures),
        ),
    )
