"""Turn served prompts into the next round's seeds; simulated visitors where there are none yet.

Usage: python -m jobs.collect_prompts --config tiny [--set source=chat/store.sqlite]
Writes `data/collected.parquet`: every prompt with use case, difficulty, frequency; `ok` is a seed.
"""

from __future__ import annotations

from collections.abc import Sequence

from jobs.entry import run_job
from moss.config.synthesis import COLLECT_ROLES, CollectPromptsConfig

CONFIG_CLASS = CollectPromptsConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry."""
    return run_job("collect_prompts", CONFIG_CLASS, run_stage, argv)


def run_stage(config: CollectPromptsConfig) -> None:
    """Read what was served, clean, classify, select."""
    from actors.collection import collect_prompts
    from actors.session import teacher_session
    from jobs.teacher_session import teacher_endpoint
    from moss.lineage import Run
    from moss.synthesis_inputs import load_served_prompts

    with Run.open(config, "collect_prompts", inputs={}) as run:
        if run.finished:
            return
        served = load_served_prompts(config)
        with (
            teacher_endpoint(config.teacher) as teacher,
            teacher_session(
                config,
                teacher,
                run,
                models=[teacher.model(role) for role in COLLECT_ROLES],
                total=None,
                unit="prompts",
            ) as session,
        ):
            outcome = collect_prompts(config, session, served=served)
            session.finish(run, outcome)


if __name__ == "__main__":
    raise SystemExit(main())
