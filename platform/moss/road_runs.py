"""What the runs on disk say of a road's stages: which are finished, and how far the others are."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from moss.config.base import StageConfig
from moss.manifest import Cost, InputRun, Manifest, is_finished, load_manifest
from moss.outputs import verify_outputs
from moss.progress import read_progress, render_line
from moss.road import StageState
from moss.run_identity import Opened, content_digest, refuse_other_run, run_folder


def finished_manifest(config: StageConfig, stage: str) -> Manifest | None:
    """The manifest of a stage that an earlier run of the road finished; None if it is to be run.

    Every output is read back, and the config and inputs must be those the run was made from.

    Args:
        config: the stage's resolved config, as it would run now.
        stage: name of the job.

    Raises:
        ConfigError: the run was finished with another config; names the keys.
        ManifestError: its outputs were altered, or an input has other content than it read.
    """
    folder = run_folder(config)
    if not is_finished(folder):
        return None
    manifest = verify_outputs(folder)
    before = Opened(
        stage=manifest.stage, config_digest=manifest.config_digest, inputs=manifest.inputs
    )
    inputs = {
        name: InputRun(path=item.path, digest=_present_digest(config, item) or "absent")
        for name, item in manifest.inputs.items()
    }
    now = Opened(stage=stage, config_digest=content_digest(config), inputs=inputs)
    refuse_other_run(folder, before, now, config)
    return manifest


def _present_digest(config: StageConfig, item: InputRun) -> str | None:
    folder = config.run_path(item.path)
    return load_manifest(folder).manifest_digest if is_finished(folder) else None


@dataclass(frozen=True, slots=True)
class StageView:
    """One row of the road's table."""

    run_id: str
    job: str
    state: StageState
    num_rows: int | None = None
    """Rows written to all files of a dataset, those with a status other than ok included; None for
    a checkpoint, whose records beside it say nothing of its size."""
    seconds: float | None = None
    spend: str = ""
    note: str = ""


def finished_view(run_id: str, job: str, state: StageState, manifest: Manifest) -> StageView:
    """Row of a stage that is done or skipped."""
    rows = [item.rows for item in manifest.outputs if item.rows is not None]
    return StageView(
        run_id=run_id,
        job=job,
        state=state,
        num_rows=sum(rows) if rows and manifest.model_name is None else None,
        seconds=manifest.seconds,
        spend=describe_cost(manifest.cost),
        note="finished earlier" if state == "skipped" else "",
    )


def describe_cost(cost: Cost | None) -> str:
    """Spend in a few words; a stand-in's answers cost nothing and are said to be a stand-in's."""
    if cost is None or not cost.num_calls:
        return ""
    calls = f"{cost.num_calls:,} calls"
    if cost.stand_in:
        return f"{calls} (stand-in)"
    return f"{calls}, " + (f"${cost.usd:.2f}" if cost.usd is not None else "price unknown")


def stop_reason(folder: str, *, since_s: float) -> str | None:
    """Why a stage stopped short, to go on when asked; None if it did not, or said nothing.

    Args:
        since_s: Unix time at which the attempt began; what an earlier one stored does not count.
    """
    record = read_progress(folder)
    if record is None or record.state != "stopped":
        return None
    stored_at_s = datetime.fromisoformat(record.updated_at).timestamp()  # in whole seconds
    return record.reason if stored_at_s >= int(since_s) else None


def progress_note(folder: str) -> str:
    """The last progress that a running stage stored, as one line; empty if there is none."""
    record = read_progress(folder)
    return render_line(record) if record else ""
