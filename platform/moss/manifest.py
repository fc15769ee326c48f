"""What a finished run says about itself: inputs, outputs with digests, counts, cost.

`manifest.json` is written last, so its presence means that the run is whole. Readers take only the
files it names. Its digest covers content alone (not time, code version, cost or place), so equal
work has an equal digest and a workspace may be moved.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from pydantic import Field, ValidationError, field_validator

from moss import storage
from moss.config.base import Config
from moss.errors import DataError, ManifestError
from moss.redaction import redact

MANIFEST_FILE = "manifest.json"
STATUSES = ("ok", "failed", "filtered", "skipped")

Counts: TypeAlias = Mapping[str, Mapping[str, int]]
"""Step name -> status (one of STATUSES) -> number of rows."""


class StepCounts(Config):
    """Where the rows that entered one step went."""

    ok: int = Field(0, ge=0)
    failed: int = Field(0, ge=0)
    filtered: int = Field(0, ge=0)
    skipped: int = Field(0, ge=0)


class ModelCost(Config):
    """Use of one model of the endpoint."""

    num_calls: int = Field(0, ge=0)
    prompt_tokens: int = Field(0, ge=0)
    completion_tokens: int = Field(0, ge=0)
    usd: float | None = None
    """None where the price is unknown, never 0 in its place."""


class Cost(ModelCost):
    """Use of the endpoint by one run, all models together."""

    stand_in: bool = False
    """True if the offline teacher answered, so the result is not one of a real model."""
    by_model: dict[str, ModelCost] = Field(default_factory=dict)


class InputRun(Config):
    """A run that this one read."""

    path: str
    """Run id in the same workspace, or an absolute path or URL elsewhere."""
    digest: str
    """`Manifest.manifest_digest` of that run when it was read."""


class OutputFile(Config):
    """A file that the run wrote."""

    path: str
    """Relative to the run folder."""
    size_bytes: int = Field(ge=0)
    sha256: str
    rows: int | None = None
    """Number of rows; Parquet files only."""
    rows_digest: str | None = None
    """Digest of the rows that does not depend on Parquet encoding; Parquet files only."""

    @field_validator("path")
    @classmethod
    def path_stays_inside_the_run(cls, path: str) -> str:
        """Refuse a path that leaves the run folder."""
        if not is_inside(path):
            raise ValueError(f"output path {path!r} must be relative and without '..'")
        return path


class Manifest(Config):
    """The record of a finished run."""

    stage: str
    run_id: str
    model_name: str | None = None
    """Name of the checkpoint this run made (MOSS-SFT), if it made one."""
    code_version: str
    config_digest: str
    inputs: dict[str, InputRun]
    outputs: tuple[OutputFile, ...]
    views: tuple[OutputFile, ...] = ()
    """Reports and pages made from the outputs, for people: no part of the digest, never read."""
    counts: dict[str, StepCounts]
    cost: Cost | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()
    seconds: float
    """Wall time from opening to finishing, of the attempt that finished."""
    created_at: str
    """UTC, ISO 8601."""

    @cached_property
    def manifest_digest(self) -> str:
        """sha256 over what the run made and from what, hex; digests of inputs are part of it."""
        content = {
            "stage": self.stage,
            "run_id": self.run_id,
            "model_name": self.model_name,
            "config": self.config_digest,
            "inputs": {name: item.digest for name, item in self.inputs.items()},
            "outputs": {item.path: item.rows_digest or item.sha256 for item in self.outputs},
            "counts": {name: item.model_dump() for name, item in self.counts.items()},
        }
        return _digest(content)


def check_counts(total_in: int, counts: Mapping[str, int], *, step: str) -> None:
    """Raise DataError unless every row that entered a step left it with a known status."""
    unknown = sorted(set(counts) - set(STATUSES))
    if unknown:
        raise DataError(f"step {step!r} counts {unknown}; statuses are {', '.join(STATUSES)}")
    if sum(counts.values()) != total_in or min(counts.values(), default=0) < 0:
        terms = " + ".join(f"{counts.get(status, 0)} {status}" for status in STATUSES)
        raise DataError(
            f"step {step!r} took {total_in} rows but accounts for {sum(counts.values())} "
            f"({terms}); every row must end as one of them, so look for rows dropped in the step"
        )


def count_statuses(rows: Iterable[Mapping[str, object]]) -> dict[str, int]:
    """Counts of the `status` column, all four statuses present.

    Raises:
        DataError: a row without a known status.
    """
    found = Counter(str(row.get("status")) for row in rows)
    check_counts(sum(found.values()), found, step="count rows")
    return {status: found[status] for status in STATUSES}


def is_inside(path: str) -> bool:
    """Whether a relative path stays below the folder it is joined to."""
    parts = PurePosixPath(path).parts
    return bool(parts) and not path.startswith("/") and ".." not in parts and "://" not in path


def write_manifest(folder: str, manifest: Manifest) -> None:
    """Write `manifest.json`, atomically, without secrets: this is what makes the run finished."""
    document = json.loads(redact(json.dumps(manifest.model_dump(mode="json"))))
    manifest = Manifest.model_validate(document)
    document["manifest_digest"] = manifest.manifest_digest
    document["checksum"] = _digest(document)
    storage.write_json(storage.join(folder, MANIFEST_FILE), document)


def is_finished(folder: str) -> bool:
    """Whether a run left a manifest there; cheap, checks no output."""
    return storage.exists(storage.join(folder, MANIFEST_FILE))


def finished_runs(workspace: str) -> list[str]:
    """Ids of the runs of a workspace that have a manifest, sorted."""
    end = f"/{MANIFEST_FILE}"
    names = storage.list_files(workspace)
    return sorted(
        name.removesuffix(end) for name in names if name.endswith(end) and name.count("/") == 1
    )


def load_manifest(folder: str) -> Manifest:
    """The manifest of a finished run; outputs are not looked at (see `verify_outputs`).

    Raises:
        ManifestError: no manifest (the run is not finished), or one that was altered.
    """
    path = storage.join(folder, MANIFEST_FILE)
    if not storage.exists(path):
        raise ManifestError(
            f"{folder} has no {MANIFEST_FILE}, so that run is absent or not finished"
            f"{_near_run(folder)}; run its stage first, or check the path"
        )
    try:
        document = storage.read_json(path)
        if not isinstance(document, dict) or document.pop("checksum", None) != _digest(document):
            raise ManifestError(
                f"{path} was altered after it was written (its checksum does not match); "
                "restore it or run the stage again with --restart"
            )
        document.pop("manifest_digest")
        return Manifest.model_validate(document)
    except (DataError, ValidationError) as error:
        raise ManifestError(
            f"{path} cannot be read ({error}); restore it or run the stage again with --restart"
        ) from error


def _near_run(folder: str) -> str:
    """A hint at a finished run beside it, on a mounted folder, whose name is nearly the same."""
    if storage.is_remote(folder):
        return ""
    beside = [path.parent.name for path in Path(folder).parent.glob(f"*/{MANIFEST_FILE}")]
    near = difflib.get_close_matches(Path(folder).name, beside, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _digest(value: object) -> str:
    canonical = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
