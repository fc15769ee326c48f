"""Complete prompts to multi-turn conversations, by one instruction or by two.

Usage: python -m jobs.synthesize_conversations --config tiny
Writes `data/conversations.parquet`; its column `split` keeps SFT, preference and eval apart.
"""

from __future__ import annotations

from collections.abc import Sequence

from jobs.entry import run_job
from moss.config.synthesis import SynthesizeConversationsConfig

CONFIG_CLASS = SynthesizeConversationsConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry."""
    return run_job("synthesize_conversations", CONFIG_CLASS, run_stage, argv)


def run_stage(config: SynthesizeConversationsConfig) -> None:
    """Read prompts, converse, write conversations."""
    from actors.session import teacher_session
    from actors.synthesis import synthesize_conversations
    from jobs.teacher_session import teacher_endpoint
    from moss.lineage import Run
    from moss.synthesis_rows import ok_rows

    source = config.run_path(config.prompts)
    with Run.open(config, "synthesize_conversations", inputs={"prompts": source}) as run:
        if run.finished:
            return
        prompts = ok_rows(source, "prompts")
        num_prompts = sum(1 for _ in prompts)
        with (
            teacher_endpoint(config.teacher) as teacher,
            teacher_session(
                config,
                teacher,
                run,
                total=min(num_prompts, config.max_prompts or num_prompts),
                unit="conversations",
            ) as session,
        ):
            outcome = synthesize_conversations(config, session, prompts=prompts)
            session.finish(run, outcome)


if __name__ == "__main__":
    raise SystemExit(main())
