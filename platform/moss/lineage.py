"""A run of a stage: one folder, one controller, resumable, with a manifest that names its parents.

    with Run.open(config, "train_sft", inputs={"model": base, "data": conversations}) as run:
        if run.finished:
            return
        storage.write_rows(run.path("data", "rows.parquet"), rows)
        run.finish(outputs=["data"], counts={"train": count_statuses(rows)})

A folder with work in it belongs to the config and inputs that `opened.json` or the manifest
records: a killed run resumes only under the same ones, so no run mixes two configs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from pydantic import ValidationError

from moss import storage
from moss.code_version import code_version
from moss.config.base import StageConfig, dump_config
from moss.errors import ConfigError, DataError, StorageError
from moss.failpoints import failpoint
from moss.lease import LEASE_FILE, LOCK_FILE, Lease
from moss.manifest import MANIFEST_FILE, StepCounts, write_manifest
from moss.manifest import Cost as Cost
from moss.manifest import Counts as Counts
from moss.manifest import Manifest as Manifest
from moss.manifest import check_counts as check_counts
from moss.manifest import count_statuses as count_statuses
from moss.manifest import is_finished as is_finished
from moss.manifest import load_manifest as load_manifest
from moss.outputs import describe_outputs
from moss.outputs import read_named_rows as read_named_rows
from moss.outputs import verify_outputs as verify_outputs
from moss.run_identity import (
    CONFIG_FILE,
    Opened,
    describe_run,
    input_folder,
    refuse_other_run,
    refuse_secrets,
)
from moss.run_identity import parent_chain as parent_chain
from moss.run_identity import run_folder as run_folder
from moss.run_identity import shared_folder as shared_folder

OPENED_FILE = "opened.json"
_BOOKKEEPING = frozenset(
    {CONFIG_FILE, OPENED_FILE, LEASE_FILE, LOCK_FILE, "progress.json", "metrics.jsonl"}
)
"""Files that hold no work yet: with only these, a run may begin anew under another config."""


class Run:
    """The controller's hold on one run folder; made by `Run.open`."""

    def __init__(self, folder: str, config: StageConfig, opened: Opened, lease: Lease) -> None:
        self.folder = folder
        """Absolute path or URL; stays right when the process changes its working directory."""
        self.manifest: Manifest | None = None
        """Set once the run is finished, by this attempt or an earlier one."""
        self._config = config
        self._opened = opened
        self._lease = lease
        self._opened_at = time.monotonic()

    @classmethod
    def open(cls, config: StageConfig, stage: str, *, inputs: Mapping[str, str]) -> Run:
        """Take a run folder, new, interrupted or finished, after checking that it is this run's.

        Args:
            config: the stage's resolved config; written to `config.yaml`.
            stage: name of the stage (`train_sft`).
            inputs: name -> folder of a finished run whose outputs this one reads.

        Raises:
            ConfigError: the config holds a secret, or the folder belongs to another config or
                stage.
            ManifestError: an input or this run's own outputs are absent or altered, or an input
                changed since this run began.
            LeaseError: another controller works on this run.
        """
        folder = run_folder(config)
        refuse_secrets(config)
        opened = describe_run(config, stage, inputs)
        lease = Lease.acquire(folder)
        try:
            run = cls(folder, config, opened, lease)
            run._resume_or_begin()
        except BaseException:
            lease.release()
            raise
        return run

    @property
    def finished(self) -> bool:
        """Whether a valid manifest stands, made from this config and these inputs."""
        return self.manifest is not None

    @property
    def stage(self) -> str:
        """Name of the stage that the folder was opened for."""
        return self._opened.stage

    @property
    def input_folders(self) -> list[str]:
        """Folders of the runs that this one reads."""
        return [input_folder(self.folder, item) for item in self._opened.inputs.values()]

    def path(self, *parts: str) -> str:
        """Absolute path of a file of this run."""
        return storage.join(self.folder, *parts)

    def check_lease(self) -> None:
        """Raise LeaseError if another controller took this run; for long stages, before writing."""
        self._lease.check()

    def finish(
        self,
        *,
        outputs: Sequence[str],
        counts: Counts,
        views: Sequence[str] = (),
        cost: Cost | None = None,
        metrics: Mapping[str, float] | None = None,
        model_name: str | None = None,
        notes: Sequence[str] = (),
    ) -> Manifest:
        """Write the manifest, after which the run is finished and its outputs may be read.

        Args:
            outputs: files or folders of this run, relative to its folder.
            counts: step -> status -> number of rows; see `check_counts`.
            views: reports and pages made from the outputs; another layout is no other work.
            cost: use of the LLM endpoint, if the stage called one.
            metrics: final numbers, named as in `moss.metrics`.
            model_name: name of the checkpoint this run made.
            notes: what a reader of the results must know.

        Raises:
            StorageError: an output is absent, or this run was finished before.
            DataError: counts or metrics are not whole.
            LeaseError: another controller took the run.
        """
        if self.manifest is not None:
            raise StorageError(f"run {self.folder} is finished already; open it with --restart")
        manifest = Manifest(
            stage=self._opened.stage,
            run_id=self._config.run_id,
            model_name=model_name,
            code_version=code_version(),
            config_digest=self._opened.config_digest,
            inputs=self._opened.inputs,
            outputs=describe_outputs(self.folder, outputs),
            views=describe_outputs(self.folder, views),
            counts=_checked_counts(counts),
            cost=cost,
            metrics=_finite(metrics or {}),
            notes=tuple(notes),
            seconds=round(time.monotonic() - self._opened_at, 3),
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        failpoint("run/outputs_described")
        self._lease.check()
        write_manifest(self.folder, manifest)
        failpoint("run/finished")
        self.manifest = load_manifest(self.folder)
        return self.manifest

    def close(self) -> None:
        """Give the lease back; an unfinished run stays to be resumed."""
        self._lease.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _resume_or_begin(self) -> None:
        storage.sweep_temporary(self.folder)
        before = _read_opened(self.folder)
        if before is not None:
            refuse_other_run(self.folder, before, self._opened, self._config)
        if is_finished(self.folder):
            self.manifest = verify_outputs(self.folder)
            return
        storage.write_text(self.path(CONFIG_FILE), dump_config(self._config))
        failpoint("run/config_written")
        storage.write_json(self.path(OPENED_FILE), self._opened.model_dump(mode="json"))
        failpoint("run/opened")


def discard_run(folder: str) -> None:
    """Delete all that a run has, so that it starts over; `--restart` of every job.

    The manifest goes first and the record of what the folder was begun for last, so a kill in
    between leaves a run that is unfinished and still refuses another config.

    Raises:
        ConfigError: the folder was not made by a run.
        LeaseError: a controller works on it.
    """
    if not _own_files(folder):
        return
    if not storage.exists(storage.join(folder, CONFIG_FILE)):
        raise ConfigError(
            f"--restart would delete {folder}, but it holds no {CONFIG_FILE}, so no run made it; "
            "check --workspace and --run-id"
        )
    lease = Lease.acquire(folder)
    try:
        storage.remove(storage.join(folder, MANIFEST_FILE))
        failpoint("discard/manifest_removed")
        last = (OPENED_FILE, CONFIG_FILE)
        entries = {name.partition("/")[0] for name in _own_files(folder)}
        for name in sorted(entries.difference(last)):
            storage.remove(storage.join(folder, name))
        failpoint("discard/work_removed")
        for name in last:
            storage.remove(storage.join(folder, name))
    finally:
        lease.release()


def _read_opened(folder: str) -> Opened | None:
    """What the folder was begun for; None if nothing lies there that another config could mix."""
    if is_finished(folder):
        manifest = load_manifest(folder)
        return Opened(
            stage=manifest.stage, config_digest=manifest.config_digest, inputs=manifest.inputs
        )
    path = storage.join(folder, OPENED_FILE)
    if not storage.exists(path) or not _has_work(folder):
        return None
    try:
        return Opened.model_validate(storage.read_json(path))
    except (DataError, ValidationError) as error:
        raise StorageError(f"{path} cannot be read ({error}); give --restart") from error


def _has_work(folder: str) -> bool:
    names = storage.list_files(folder)
    return any(name not in _BOOKKEEPING and not name.startswith("tensorboard/") for name in names)


def _own_files(folder: str) -> list[str]:
    return [name for name in storage.list_files(folder) if name not in (LEASE_FILE, LOCK_FILE)]


def _checked_counts(counts: Counts) -> dict[str, StepCounts]:
    for step, by_status in counts.items():
        check_counts(sum(by_status.values()), by_status, step=step)
    return {step: StepCounts.model_validate(dict(item)) for step, item in counts.items()}


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    wrong = [name for name, value in metrics.items() if not math.isfinite(value)]
    if wrong:
        raise DataError(
            f"final metrics {wrong} are not finite numbers; leave out what could not be measured "
            "and say so in notes"
        )
    return {name: float(value) for name, value in metrics.items()}
