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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
_TORCH_WRITE_FAILURES = ("PytorchStreamWriter", "inline_container", "unexpected pos")
"""In the message of the RuntimeError that `torch.save` makes of a short write."""


class _StateRecord(Config):
    """Contents of `state.json`."""

    step: int = Field(ge=0)
    score: float | None = None
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
    return publish_training_state(take_snapshot(folder, write), folder, step, keep=keep)


def take_snapshot(folder: str, write: Callable[[str], None]) -> str:
    """The quick half of saving: let `write` fill a hidden local folder, and return that folder.

    Nothing is synced, so what was written may as yet lie in memory only. A failed `write` leaves
    nothing behind.
    """
    building = _local_building_folder(folder)
    try:
        write(str(building))
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return str(building)


def publish_training_state(
    snapshot: str,
    folder: str,
    step: int,
    *,
    keep: int = 2,
    score: float | None = None,
    keep_best: int = 0,
) -> str:
    """The slow half: sum up, sync and rename a snapshot, gone after this, and delete old states.

    Args:
        keep: how many of the newest states stay.
        score: how good this state is, more is better; None if that is not known.
        keep_best: how many states with the best scores stay beside the newest.

    Returns: path of the state.

    Raises:
        StorageError: the snapshot is empty, or storage refused.
    """
    target = storage.join(folder, f"step-{step:06d}")
    try:
        if keep < 1 or step < 0:
            raise DataError(f"keep={keep} must be at least 1 and step={step} at least 0")
        failpoint("state/files_written")
        _write_record(Path(snapshot), step, score)
        storage.publish_folder(snapshot, target)
    finally:
        shutil.rmtree(snapshot, ignore_errors=True)
    failpoint("state/published")
    # A state of a later step is one that loading passed over: this training went past it again.
    ours = [(found, path) for found, path in _states(folder) if found <= step]
    kept = [path for _, path in ours[:keep]] + _best(ours, keep_best)
    for _, path in _states(folder):
        if path not in kept:
            storage.remove(path)
    return target


@contextmanager
def full_disk_as_storage_error(what: str) -> Iterator[None]:
    """Raise what a refused write raises, torch's own kind included, as StorageError."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{what} cannot be written: {error}; free space") from error
    except RuntimeError as error:
        if not any(mark in str(error) for mark in _TORCH_WRITE_FAILURES):
            raise
        raise StorageError(
            f"{what} cannot be written, most likely for want of space ({error})"
        ) from error


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


def find_training_state(folder: str, step: int) -> str | None:
    """Path of the state of this very step, if it is there and whole."""
    paths = [path for found, path in _states(folder) if found == step]
    return next((path for path in paths if _fault(path, step) is None), None)


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


def _write_record(building: Path, step: int, score: float | None) -> None:
    names = storage.list_files(str(building))
    if not names:
        raise StorageError(f"the state of step {step} has no files; its writer wrote nothing")
    files = describe_outputs(str(building), names)
    record = _StateRecord(step=step, score=score, files=files)
    storage.write_json(str(building / STATE_FILE), record.model_dump(mode="json"))


def _states(folder: str) -> list[tuple[int, str]]:
    """(step, path) of every state folder, newest first, whole or not."""
    names = {name.partition("/")[0] for name in storage.list_files(folder)}
    found = [(int(match[1]), name) for name in names if (match := _STEP_FOLDER.match(name))]
    return [(step, storage.join(folder, name)) for step, name in sorted(found, reverse=True)]


def _best(states: list[tuple[int, str]], count: int) -> list[str]:
    """Paths of the states with the best scores, the newer of equals first."""
    scored: list[tuple[float, int, str]] = []
    for step, path in states if count else []:
        try:
            record = _StateRecord.model_validate(storage.read_json(storage.join(path, STATE_FILE)))
        except (StorageError, DataError, ValidationError):
            continue  # not whole, so nothing to keep; loading says why
        if record.score is not None:
            scored.append((record.score, step, path))
    return [path for _, _, path in sorted(scored, reverse=True)[:count]]


def _fault(path: str, step: int) -> str | None:
    try:
        record = _StateRecord.model_validate(storage.read_json(storage.join(path, STATE_FILE)))
    except (StorageError, DataError, ValidationError) as error:
        return f"{STATE_FILE}: {error}"
    if record.step != step:
        return f"{STATE_FILE} is of step {record.step}"
    faults = (find_fault(path, item) for item in record.files)
    return next((fault for fault in faults if fault), None)
