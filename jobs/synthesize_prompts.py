"""Extend seeds to prompts by Self-Instruct, per category and language.

Usage: python -m jobs.synthesize_prompts --config tiny_warmup   (then collect, then --config tiny)
Writes `data/prompts.parquet`: every prompt, kept or not, with its reason and parents.
"""

from __future__ import annotations

from collections.abc import Sequence

from jobs.entry import run_job
from moss.config.synthesis import SynthesizePromptsConfig

CONFIG_CLASS = SynthesizePromptsConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry."""
    return run_job("synthesize_prompts", CONFIG_CLASS, run_stage, argv)


def run_stage(config: SynthesizePromptsConfig) -> None:
    """Read seeds, extend them, write prompts."""
    from actors.session import teacher_session
    from actors.synthesis import synthesize_prompts
    from jobs.teacher_session import teacher_endpoint
    from moss.lineage import Run
    from moss.synthesis_inputs import load_prompt_seeds, load_red_team_rows

    inputs = {} if config.seeds is None else {"seeds": config.run_path(config.seeds)}
    with Run.open(config, "synthesize_prompts", inputs=inputs) as run:
        if run.finished:
            return
        seeds = load_prompt_seeds(config)
        total = sum(sum(by_language.values()) for by_language in config.quotas.values())
        with (
            teacher_endpoint(config.teacher) as teacher,
            teacher_session(config, teacher, run, total=total, unit="prompts") as session,
        ):
            outcome = synthesize_prompts(
                config, session, seeds=seeds, red_team=load_red_team_rows()
            )
            session.finish(run, outcome)


if __name__ == "__main__":
    raise SystemExit(main())
