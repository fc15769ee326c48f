"""The end of a synthesis or labelling run: its files, its report, then its manifest."""

from __future__ import annotations

from collections.abc import Iterator

from moss import storage
from moss.config.synthesis import SynthesisConfig
from moss.config.teacher import TeacherConfig
from moss.ledger import Bill
from moss.lineage import Manifest, Run
from moss.recipes import Row
from moss.reporting.ancestors import Place
from moss.reporting.run_page import REPORT_HTML, render_report
from moss.reporting.run_report import REPORT_JSON, make_report
from moss.reporting.viewer import ROWS_HTML, make_viewer
from moss.row_files import write_row_file
from moss.rows import iterate_parquet
from moss.synthesis_rows import Dataset, Outcome, cost_of, schema, shape_rows


def finish_run(
    config: SynthesisConfig,
    run: Run,
    outcome: Outcome,
    *,
    teacher: TeacherConfig,
    stand_in: bool,
    bill: Bill,
) -> Manifest:
    """Write every file, the report and the viewer of rows, then the manifest.

    Args:
        teacher: `config.teacher` with its base URL resolved.
        stand_in: the offline teacher answered.
        bill: of the run's ledger.
    Raises:
        DataError: counts or spend do not add up; the run stays unfinished.
    """
    run.check_lease()
    for dataset, rows in outcome.datasets.items():
        shaped = shape_rows(rows, dataset, teacher)
        write_row_file(run.path(data_file(dataset)), shaped, schema(dataset))
    report = make_report(
        config,
        run.stage,
        outcome,
        {dataset: written_rows(run, dataset) for dataset in outcome.datasets},
        teacher=teacher,
        stand_in=stand_in,
        bill=bill,
    )
    storage.write_json(run.path(REPORT_JSON), report.model_dump(mode="json"))
    storage.write_text(run.path(REPORT_HTML), render_report(report, rows_page=ROWS_HTML))
    files = tuple(map(data_file, outcome.datasets))
    viewer = make_viewer(
        Place(run.folder, files, tuple(run.input_folders)),
        tuple(outcome.datasets),
        lambda dataset: written_rows(run, dataset),
        stage=run.stage,
        notes=report.notes,
    )
    storage.write_text(run.path(ROWS_HTML), viewer)
    return run.finish(
        outputs=files,
        views=[REPORT_JSON, REPORT_HTML, ROWS_HTML],
        counts=outcome.counts,
        cost=cost_of(outcome.usage, teacher, stand_in=stand_in),
        metrics=outcome.metrics,
        notes=report.notes,
    )


def data_file(dataset: Dataset) -> str:
    """Path of a file of rows inside its run."""
    return storage.join("data", f"{dataset}.parquet")


def written_rows(run: Run, dataset: Dataset) -> Iterator[Row]:
    """The rows of a file, as written, a thousand in memory at a time."""
    path = run.path(data_file(dataset))
    with storage.open_binary(path) as file:
        yield from iterate_parquet(file, where=path)
