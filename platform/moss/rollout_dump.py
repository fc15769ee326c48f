"""The rollouts of one iteration as files; its update can be done again from them, without engine.

    rollouts/iteration-000010.npz    the arrays of `ScoredRollouts`
    rollouts/iteration-000010.json   beta, what was dropped, figures; written last

Iteration 10 is the tenth: it began with the weights, and the training state, of version 9.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, fields
from typing import Final
from zipfile import BadZipFile

import numpy as np
from pydantic import Field, ValidationError

from moss import storage
from moss.config.base import Config
from moss.errors import DataError
from moss.experience import ScoredRollouts
from moss.rollouts import RolloutBatch

FOLDER: Final = "rollouts"
_BATCH: Final = "rollouts."
"""Before the names of the batch's own arrays."""


class DumpRecord(Config):
    """What the update of an iteration depends on beside the rollouts, and what came of it."""

    iteration: int = Field(ge=1)
    """From 1."""
    kl_coefficient: float
    score_mean: float
    """Taken off each score, which was then divided by `score_scale`."""
    score_scale: float
    figures: dict[str, float]
    """Metrics of the iteration that are finite."""
    dropped: tuple[dict[str, str], ...]
    """Row and reason of responses without a reward, which are not among the arrays."""


@dataclass(frozen=True, slots=True)
class RolloutDump:
    """One iteration's rollouts, as they were scored."""

    record: DumpRecord
    scored: ScoredRollouts


def write_dump(run_folder: str, dump: RolloutDump) -> None:
    """Write a dump; one of the same iteration is replaced.

    Raises:
        StorageError: storage refused.
    """
    scored, batch = dump.scored, dump.scored.rollouts
    arrays = {
        field.name: getattr(scored, field.name)
        for field in fields(scored)
        if field.name != "rollouts" and getattr(scored, field.name) is not None
    } | {_BATCH + field.name: getattr(batch, field.name) for field in fields(batch)}
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)
    storage.write_bytes(_path(run_folder, dump.record.iteration, "npz"), packed.getvalue())
    storage.write_json(
        _path(run_folder, dump.record.iteration, "json"), dump.record.model_dump(mode="json")
    )


def read_dump(run_folder: str, iteration: int) -> RolloutDump:
    """Read what `write_dump` wrote.

    Raises:
        DataError: there is no dump of this iteration, or it is not whole; names those there are.
    """
    path = _path(run_folder, iteration, "json")
    if not storage.exists(path):
        present = ", ".join(str(number) for number in dumped_iterations(run_folder)) or "none"
        raise DataError(
            f"{run_folder} has no dump of iteration {iteration}; dumped iterations: {present}. Set "
            "faults.dump_rollouts_every before a run"
        )
    try:
        record = DumpRecord.model_validate(storage.read_json(path))
        packed = io.BytesIO(storage.read_bytes(_path(run_folder, iteration, "npz")))
        with np.load(packed) as loaded:
            arrays = {name: loaded[name] for name in loaded.files}
        batch = {field.name: arrays.pop(_BATCH + field.name) for field in fields(RolloutBatch)}
        arrays.setdefault("values_BT", None)
        return RolloutDump(record, ScoredRollouts(rollouts=RolloutBatch(**batch), **arrays))
    except (ValidationError, BadZipFile, ValueError, KeyError, TypeError, OSError) as error:
        raise DataError(f"the dump {path} is not whole: {error}") from error


def dumped_iterations(run_folder: str) -> list[int]:
    """Iterations with a dump, rising."""
    names = storage.list_files(storage.join(run_folder, FOLDER))
    return [
        int(name.removeprefix("iteration-").removesuffix(".json"))
        for name in names
        if name.endswith(".json")
    ]


def _path(run_folder: str, iteration: int, kind: str) -> str:
    return storage.join(run_folder, FOLDER, f"iteration-{iteration:06d}.{kind}")
