"""Training states: what a killed training run goes on from.

    step-000100/   whatever the trainer wrote (model, optimizer, scheduler, RNG, data cursor)
    step-000100/state.json   sizes and sha256 of those files, written last

A state is built in a hidden folder and renamed into place, so a `step-...` folder is whole. Loading
still verifies it and walks back to the last one that holds, because disks lose bytes too.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

from pydantic import Field, ValidationError

from moss import storage
from moss.atomic import TEMPORARY_MARK
from moss.config.base import Config
from moss.errors import DataError, StorageError
from moss.failpoints import failpoint
from moss.manifest import OutputFile
from moss.outputs import describe_outputs, find_fault

STATE_FILE = "state.json"
_STEP_FOLDER = re.compile(r"step-(\d{6,})$")


class _StateRecord(Config):
    """Contents of `state.json`."""

    step: int = Field(ge=0)
    files: tuple[OutputFile, ...]


def save_training_state(folder: str, step: int, write: Callable[[str], None], keep: int = 2) -> str:
    """Write one training state, atomically, then delete all but the newest `keep`.

    Args:
        folder: where the states of a run lie, for instance `run.path("states")`.
        step: optimizer steps done; an earlier state of the same step is replaced.
        write: called with a local folder to write any files into.
        keep: how many states stay; 2 leaves one to walk back to.

    Returns: path of the state.

    Raises:
        StorageError: `write` wrote nothing, or storage refused.
    """
    if keep < 1 or step < 0:
        raise DataError(f"keep={keep} must be at least 1 and step={step} at least 0")
    target = storage.join(folder, f"step-{step:06d}")
    building = _local_building_folder(folder)
    try:
        write(str(building))
        failpoint("state/files_written")
        _write_record(building, step)
        storage.publish_folder(str(building), target)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    failpoint("state/published")
    # A state of a later step is one that loading passed over: this training went past it again.
    ours = [path for found, path in _states(folder) if found <= step][:keep]
    for _, path in _states(folder):
        if path not in ours:
            storage.remove(path)
    return target


def load_latest_training_state(folder: str) -> tuple[int, str] | None:
    """Step and path of the newest state that is whole; None if there is none.

    States that are not whole are passed over with a warning that names the fault.
    """
    for step, path in _states(folder):
        fault = _fault(path, step)
        if fault is None:
            return step, path
        warnings.warn(
            f"training state {path} is not whole ({fault}); going back to the one before it",
            stacklevel=2,
        )
    return None


def fetch_training_state(path: str, local_folder: str) -> str:
    """A local folder with the files of a state; `path` itself if it is local already."""
    if not storage.is_remote(path):
        return path
    for name in storage.list_files(path):
        storage.write_bytes(
            storage.join(local_folder, name), storage.read_bytes(storage.join(path, name))
        )
    return local_folder


def _local_building_folder(folder: str) -> Path:
    if storage.is_remote(folder):
        return Path(tempfile.mkdtemp(prefix="moss-state-"))
    parent = Path(storage.absolute(folder))
    parent.mkdir(parents=True, exist_ok=True)
    # Beside its target, so that publishing is a rename; swept with other leftovers of a kill.
    return Path(tempfile.mkdtemp(prefix=f".state{TEMPORARY_MARK}", dir=parent))


def _write_record(building: Path, step: int) -> None:
    names = storage.list_files(str(building))
    if not names:
        raise StorageError(f"the state of step {step} has no files; its writer wrote nothing")
    files = describe_outputs(str(building), names)
    record = _StateRecord(step=step, files=files)
    storage.write_json(str(building / STATE_FILE), record.model_dump(mode="json"))


def _states(folder: str) -> list[tuple[int, str]]:
    """(step, path) of every state folder, newest first, whole or not."""
    names = {name.partition("/")[0] for name in storage.list_files(folder)}
    found = [(int(match[1]), name) for name in names if (match := _STEP_FOLDER.match(name))]
    return [(step, storage.join(folder, name)) for step, name in sorted(found, reverse=True)]


def _fault(path: str, step: int) -> str | None:
    try:
        record = _StateRecord.model_validate(storage.read_json(storage.join(path, STATE_FILE)))
    except (StorageError, DataError, ValidationError) as error:
        return f"{STATE_FILE}: {error}"
    if record.step != step:
        return f"{STATE_FILE} is of step {record.step}"
    faults = (find_fault(path, item) for item in record.files)
    return next((fault for fault in faults if fault), None)
