"""Evaluate the road on held-out prompts: one table in the terminal, as JSON and as a page.

Usage: python -m jobs.evaluate --config tiny [--set win_rate.num_prompts=50]
Writes `report.json`, `report.html` and, under `data/`, every response, judgment and tool turn.
"""

from __future__ import annotations

from collections.abc import Sequence

from jobs.entry import run_job
from moss.config.evaluation import EvaluateConfig

CONFIG_CLASS = EvaluateConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry."""
    return run_job("evaluate", CONFIG_CLASS, run_stage, argv)


def run_stage(config: EvaluateConfig) -> None:
    """Measure, report, finish the run."""
    import torch

    from actors.session import teacher_session
    from jobs import evaluation_run
    from jobs.teacher_session import teacher_endpoint
    from moss.evaluation.findings import make_report
    from moss.evaluation.report import print_report, report_console
    from moss.lineage import Run
    from moss.synthesis_rows import cost_of, status_counts

    with Run.open(config, "evaluate", inputs=evaluation_run.input_runs(config)) as run:
        if run.finished:
            return
        torch.set_num_threads(config.generation.num_threads)
        total = evaluation_run.num_steps(config)
        with (
            teacher_endpoint(config.teacher) as llm,
            teacher_session(config, llm, run, total=total, unit="steps") as session,
        ):
            measured = evaluation_run.measure(config, session)
        report = make_report(measured.findings, config)
        print_report(report, report_console())
        run.finish(
            outputs=evaluation_run.write_files(run, measured, report),
            counts={"judge": status_counts(measured.judgments), "turn": measured.turn_counts},
            cost=cost_of(session.usage, llm, stand_in=session.endpoint.stand_in),
            notes=report.notes,
        )


if __name__ == "__main__":
    raise SystemExit(main())
