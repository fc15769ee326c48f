"""Train MOSS-PPO: policy, critic, reference, reward and rollout actors (paper section 7.2).

Usage: python -m jobs.train_ppo --config tiny [--set ppo.kl_coefficient=0.05]
Reads MOSS-SFT, PAT's `data/prompts.parquet` and, where a reward or the critic uses it, the
preference model; writes `checkpoint/`, `data/dropped_rollouts.parquet`, `metrics.jsonl` and
`samples.jsonl`. Run again after a kill, it goes on from the last training state. A monitor that
stops it leaves the best checkpoint that passed no limit, and says so in the manifest's notes.
"""

from __future__ import annotations

from collections.abc import Sequence

from jobs.entry import run_job
from moss.config.ppo import TrainPPOConfig

CONFIG_CLASS = TrainPPOConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry."""
    return run_job("train_ppo", CONFIG_CLASS, run_stage, argv)


def run_stage(config: TrainPPOConfig) -> None:
    """Train, save, write the manifest."""
    import pyarrow as pa

    from actors.ppo_run import CHECKPOINT, train_ppo
    from moss import storage
    from moss.lineage import Run

    inputs = {"policy": config.run_path(config.policy)}
    if config.uses_preference_model:
        inputs["preference_model"] = config.run_path(config.preference_model)
    inputs["prompts"] = config.run_path(config.prompts)
    with Run.open(config, "train_ppo", inputs=inputs) as run:
        if run.finished:
            return
        result = train_ppo(config, run.folder)
        dropped = "data/dropped_rollouts.parquet"
        columns = pa.schema([(name, pa.string()) for name in ("iteration", "row", "reason")])
        storage.write_rows(run.path(dropped), result.dropped, columns)
        run.finish(
            outputs=[CHECKPOINT, dropped],
            counts=result.counts,
            metrics=result.metrics,
            model_name=config.run_id,
            notes=result.notes,
        )


if __name__ == "__main__":
    raise SystemExit(main())
