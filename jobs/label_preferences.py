"""Six responses per conversation, every pair of them judged in both orders.

Usage: python -m jobs.label_preferences --config tiny
Writes `data/responses.parquet` and `data/pairs.parquet` (15 pairs per prompt).
"""

from __future__ import annotations

from collections.abc import Sequence

from jobs.entry import run_job
from moss.config.labelling import LabelPreferencesConfig

CONFIG_CLASS = LabelPreferencesConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry."""
    return run_job("label_preferences", CONFIG_CLASS, run_stage, argv)


def run_stage(config: LabelPreferencesConfig) -> None:
    """Respond with five teachers and MOSS-SFT, judge, write responses and pairs."""
    from actors.labelling import label_preferences
    from actors.session import teacher_session
    from jobs.teacher_session import teacher_endpoint
    from moss.lineage import Run, shared_folder
    from moss.synthesis_rows import ok_rows

    source, policy = config.run_path(config.conversations), config.run_path(config.checkpoint)
    inputs = {"conversations": source, "policy": policy}
    with Run.open(config, "label_preferences", inputs=inputs) as run:
        if run.finished:
            return
        with (
            teacher_endpoint(config.teacher) as teacher,
            teacher_session(
                config,
                teacher,
                run,
                total=None,
                unit="rows",
                other_cpus=config.response.num_cpus,
            ) as session,
        ):
            outcome = label_preferences(
                config,
                session,
                conversations=ok_rows(source, "conversations"),
                checkpoint_folder=shared_folder(f"{policy}/checkpoint"),
            )
            session.finish(run, outcome)


if __name__ == "__main__":
    raise SystemExit(main())
