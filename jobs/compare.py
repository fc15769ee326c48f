"""Compare SFT, PAT and PPO on the same held-out prompts: wins, scores, KL, length and cost.

Usage: python -m jobs.compare --config tiny [--set best_of_n={} --set rejection_sampling=MOSS-RS]
Reads finished runs; writes `report.json`, `report.html` and, under `data/`, every response and
judgment.
"""

from __future__ import annotations

from collections.abc import Sequence

from jobs.entry import run_job
from moss.config.evaluation import CompareConfig

CONFIG_CLASS = CompareConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry."""
    return run_job("compare", CONFIG_CLASS, run_stage, argv)


def run_stage(config: CompareConfig) -> None:
    """Measure, report, finish the run."""
    import torch

    from actors.session import teacher_session
    from jobs import comparison_run
    from jobs.teacher_session import teacher_endpoint
    from moss.evaluation.methods import compare_report
    from moss.evaluation.report import print_report, report_console
    from moss.lineage import Run
    from moss.synthesis_rows import cost_of, status_counts

    with Run.open(config, "compare", inputs=comparison_run.input_runs(config)) as run:
        if run.finished:
            return
        torch.set_num_threads(config.generation.num_threads)
        total = comparison_run.num_steps(config)
        with (
            teacher_endpoint(config.teacher) as llm,
            teacher_session(config, llm, run, total=total, unit="steps") as session,
        ):
            measured = comparison_run.measure(config, session)
        report = compare_report(measured.found, config)
        print_report(report, report_console())
        outputs, views = comparison_run.write_files(run, measured, report)
        run.finish(
            outputs=outputs,
            views=views,
            counts={"judge": status_counts(measured.judgments)},
            cost=cost_of(session.usage, llm, stand_in=session.endpoint.stand_in),
            notes=report.notes,
        )


if __name__ == "__main__":
    raise SystemExit(main())
