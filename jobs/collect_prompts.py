"""Turn served prompts into the next round's seeds; simulated visitors where there are none yet.

Usage: python -m jobs.collect_prompts --config tiny [--set source=chat-store/chat.sqlite]
Writes `data/collected.parquet`: every prompt with use case, difficulty, frequency; `ok` is a seed.
With `--purge` a finished export is made over if a user took something back since: deleted it, or
withdrew consent. Answers of the teacher are reused, and runs made from the old export are named.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jobs.entry import build_parser, guarded, resolve_config, run_job
from moss.config.synthesis import CollectPromptsConfig

CONFIG_CLASS = CollectPromptsConfig
_JOB = "collect_prompts"
_PURGE = "--purge"


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry."""
    parser = build_parser(_JOB, CONFIG_CLASS)
    parser.add_argument(
        _PURGE, action="store_true", help="make the export over if users took prompts back since"
    )
    arguments = list(sys.argv[1:] if argv is None else argv)
    flags = parser.parse_args(arguments)
    if flags.purge:
        code = guarded(_JOB, lambda: _purge(resolve_config(_JOB, CONFIG_CLASS, flags)))
        if code:
            return code
    return run_job(_JOB, CONFIG_CLASS, run_stage, [item for item in arguments if item != _PURGE])


def _purge(config: CollectPromptsConfig) -> None:
    """Discard the export if it holds what it should not; the stage then makes it anew."""
    from moss.forgetting import runs_made_from, taken_back
    from moss.lineage import discard_run, run_folder

    count = len(taken_back(config))
    if not count:
        print(f"{_JOB}: no exported prompt was taken back")
        return
    print(f"{_JOB}: {count} exported prompts were taken back; the export is made over")
    if readers := runs_made_from(config.workspace, config.run_id):
        print(
            f"{_JOB}: made from the earlier export: {', '.join(readers)}; run them with --restart "
            "to leave those prompts out (a trained model cannot forget by itself)"
        )
    discard_run(run_folder(config))


def run_stage(config: CollectPromptsConfig) -> None:
    """Read what was served, clean, classify, select."""
    from actors.collection import collect_prompts
    from actors.session import teacher_session
    from jobs.teacher_session import teacher_endpoint
    from moss.lineage import Run
    from moss.synthesis_inputs import load_served_prompts

    with Run.open(config, _JOB, inputs={}) as run:
        if run.finished:
            return
        served = load_served_prompts(config)
        with (
            teacher_endpoint(config.teacher) as teacher,
            teacher_session(
                config,
                teacher,
                run,
                total=None,
                unit="prompts",
            ) as session,
        ):
            outcome = collect_prompts(config, session, served=served)
            session.finish(run, outcome)


if __name__ == "__main__":
    raise SystemExit(main())
