"""Plan a PPO run before it starts: who sits where, memory per device, batch arithmetic.

Usage: python -m jobs.plan --config paper [--set ppo.micro_batch_size=1] [--node-gpus 8
--device-memory-gib 80 ...] [--json]
`--config` is a road, whose `train_ppo` stage is planned, or a YAML file of `train_ppo`. Starts
nothing and reads no weights. Exit code 2, with figures and what to change, for what cannot fit.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from jobs.entry import build_parser, guarded
from jobs.plan_machines import add_machine_flags, read_machines
from moss.config.plan import PlanConfig
from moss.errors import ConfigError

CONFIG_CLASS = PlanConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry."""
    flags = _parser().parse_args(argv)
    return guarded("plan", lambda: show_plan(flags), size=flags.config, workspace=flags.workspace)


def show_plan(flags: argparse.Namespace) -> None:
    """Print the plan.

    Raises:
        ConfigError: the run cannot start as it is; every reason in one message.
    """
    from jobs.plan_check import make_plan
    from jobs.plan_inputs import load_plan_inputs
    from jobs.plan_report import as_record, as_text

    inputs = load_plan_inputs(flags.config, flags.overrides, workspace=flags.workspace)
    plan = make_plan(inputs, read_machines(flags))
    print(as_text(plan))
    if flags.json:
        print(json.dumps(as_record(plan)))
    if plan.problems:
        raise ConfigError("this run cannot start:\n" + "\n".join(f"- {p}" for p in plan.problems))


def _parser() -> argparse.ArgumentParser:
    parser = build_parser("plan", CONFIG_CLASS, owns_run=False, configs="run_road")
    add_machine_flags(parser)
    parser.add_argument("--json", action="store_true", help="end with all figures on one line")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
