"""Preference-aware training: score, sort into six buckets, tag, train MOSS-PAT.

Usage: python -m jobs.train_pat --config tiny
Writes `checkpoint/` with the tags it was trained on, `data/scored.parquet`, `data/prompts.parquet`
(PPO's prompts), `quality.json` (bounds) and `report.html` (the paper's Fig. 7).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jobs.entry import run_job
from moss.config.training import TrainPATConfig

if TYPE_CHECKING:
    from moss.lineage import Run

CONFIG_CLASS = TrainPATConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry."""
    return run_job("train_pat", CONFIG_CLASS, run_stage, argv)


def run_stage(config: TrainPATConfig) -> None:
    """Open the run on its base, preference model and conversations."""
    from moss.lineage import Run

    inputs = {
        "base": config.run_path(config.base),
        "preference_model": config.run_path(config.preference_model),
    }
    inputs |= {source.run: config.run_path(source.run) for source in config.sources}
    with Run.open(config, "train_pat", inputs=inputs) as run:
        if not run.finished:
            _train_tagged(config, run, inputs)


def _train_tagged(config: TrainPATConfig, run: Run, inputs: dict[str, str]) -> None:
    from actors.tagging import tag_by_preference
    from actors.train_worker import connect_for, discard_states
    from jobs.language_training import train_on_examples
    from moss.lineage import shared_folder
    from moss.quality import pin_tags
    from moss.quality_page import QUALITY_PAGE

    folder = shared_folder(run.folder)
    base = shared_folder(f"{inputs['base']}/checkpoint")
    with connect_for(config.training, stage="train_pat"):
        tagged = tag_by_preference(config, run, inputs, base)
        metrics, counts = train_on_examples(
            config.training,
            {"train": tagged.examples},
            tagged.renderer,
            stage="train_pat",
            run_folder=folder,
            base_folder=base,
            seed=config.seed,
        )
    pin_tags(f"{folder}/checkpoint", tagged.renderer)
    run.finish(
        outputs=["checkpoint", "data", "quality.json"],
        views=[QUALITY_PAGE],
        counts=tagged.counts | counts,
        metrics=metrics,
        model_name=config.run_id,
        notes=[f"tags: {tagged.tags}"],
    )
    discard_states(folder)


if __name__ == "__main__":
    raise SystemExit(main())
