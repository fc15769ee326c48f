"""Run the whole road: every stage a job on a Ray cluster, in order, resumably.

Usage: python -m jobs.run_road --config tiny [--address http://head:8265] [--dry-run] [--stop]
Without an address a cluster starts on this machine; it stays, with the chat service, until --stop.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from jobs.entry import build_parser, guarded, resolve_config
from moss.config.road import RoadConfig

CONFIG_CLASS = RoadConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry."""
    flags = _parser().parse_args(argv)

    def work() -> None:
        config = resolve_config("run_road", CONFIG_CLASS, flags)
        if flags.address:
            config = config.model_copy(update={"address": flags.address})
        from jobs import road_run

        if flags.stop:
            road_run.stop(config)
        elif flags.dry_run:
            road_run.show_plan(config)
        else:
            everything = [stage.run_id for stage in config.stages] if flags.restart else []
            road_run.walk(config, restart=[*everything, *flags.restart_from])

    return guarded("run_road", work)


def _parser() -> argparse.ArgumentParser:
    parser = build_parser("run_road", CONFIG_CLASS)
    parser.add_argument("--address", help="Jobs API of a Ray cluster, such as http://head:8265")
    parser.add_argument("--dry-run", action="store_true", help="check and print the plan only")
    parser.add_argument("--stop", action="store_true", help="end what an earlier road started here")
    parser.add_argument(
        "--restart-from",
        action="append",
        default=[],
        metavar="RUN_ID",
        help="delete this stage's run and those that need it, and make them again",
    )
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
