"""Score and update once more with the rollouts that a PPO run dumped, without a rollout engine.

Usage: python -m jobs.replay_ppo --run-id MOSS-PPO --iteration 10 --workspace runs/tiny
Reads the run's config, its dump (`faults.dump_rollouts_every`) and, if it is still there, the
training state that the iteration began with; prints a report as JSON and writes nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from jobs.entry import guarded


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs.replay_ppo", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--workspace", required=True, help="folder that holds the runs")
    parser.add_argument("--run-id", default="MOSS-PPO", help="name of the PPO run")
    parser.add_argument("--iteration", type=int, required=True, help="which one, from 1")
    flags = parser.parse_args(argv)
    return guarded("replay_ppo", lambda: replay(flags.workspace, flags.run_id, flags.iteration))


def replay(workspace: str, run_id: str, iteration: int) -> None:
    """Print what one iteration does."""
    from pathlib import Path

    from actors.ppo_replay import replay_iteration
    from moss.config import load_config
    from moss.config.ppo import TrainPPOConfig
    from moss.run_identity import CONFIG_FILE
    from moss.storage import absolute, join

    folder = join(absolute(workspace), run_id)
    config = load_config(
        TrainPPOConfig, Path(folder, CONFIG_FILE), [f"workspace={absolute(workspace)}"]
    )
    report = replay_iteration(config, folder, iteration)
    print(report.to_json())
    if not report.exact_state:
        print(
            f"the training state of iteration {iteration - 1} is not kept, so this began with the "
            "run's first models, and differs; the states before the newest dumps are there: "
            "replay one of those, or keep more (keep_checkpoints)",
            file=sys.stderr,
        )


if __name__ == "__main__":
    raise SystemExit(main())
