"""Make five-section conversations with real tool calls, and negative examples.

Usage: python -m jobs.synthesize_tool_conversations --config tiny
Writes `data/tool_conversations.parquet`: positive, disabled and negative ones (column `kind`).
"""

from __future__ import annotations

from collections.abc import Sequence

from jobs.entry import run_job
from moss.config.synthesis import SynthesizeToolConversationsConfig

CONFIG_CLASS = SynthesizeToolConversationsConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry."""
    return run_job("synthesize_tool_conversations", CONFIG_CLASS, run_stage, argv)


def run_stage(config: SynthesizeToolConversationsConfig) -> None:
    """Extend queries, plan, call tools, reply; switch tools on in conventional conversations."""
    from actors.session import teacher_session
    from actors.tool_synthesis import synthesize_tool_conversations
    from jobs.teacher_session import teacher_endpoint
    from moss.lineage import Run
    from moss.synthesis_inputs import demonstrations_by_language
    from moss.synthesis_rows import ok_rows

    source = config.run_path(config.conversations)
    with Run.open(config, "synthesize_tool_conversations", inputs={"conversations": source}) as run:
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
            ) as session,
        ):
            outcome = synthesize_tool_conversations(
                config,
                session,
                demonstrations=demonstrations_by_language(),
                conversations=ok_rows(source, "conversations"),
            )
            session.finish(run, outcome)


if __name__ == "__main__":
    raise SystemExit(main())
