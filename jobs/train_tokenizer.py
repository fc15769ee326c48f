"""Train the bilingual tokenizer: a base vocabulary, a Chinese one, their merge.

Usage: python -m jobs.train_tokenizer --config tiny [--set chinese_vocab_size=800]
Writes `checkpoint/` (tokenizer files) and `report.json` (bytes per token before and after).
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from jobs.entry import run_job
from moss.config.corpus import TrainTokenizerConfig

CONFIG_CLASS = TrainTokenizerConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry."""
    return run_job("train_tokenizer", CONFIG_CLASS, run_stage, argv)


def run_stage(config: TrainTokenizerConfig) -> None:
    """Train, save, report."""
    from moss import storage
    from moss.lineage import Run, shared_folder
    from moss.tokenizer_training import train_tokenizer

    with Run.open(config, "train_tokenizer", inputs={}) as run:
        if run.finished:
            return
        checkpoint = shared_folder(run.path("checkpoint"))
        tokenizer, report = train_tokenizer(config)
        tokenizer.save(checkpoint)
        storage.write_text(
            run.path("report.json"), json.dumps(report, indent=1, ensure_ascii=False)
        )
        print(
            f"tokenizer: {tokenizer.vocab_size} tokens, {report['cjk_share']:.0%} with Chinese; "
            f"Chinese bytes per token {report['zh_bytes_per_token_base']:.2f} -> "
            f"{report['zh_bytes_per_token']:.2f}"
        )
        run.finish(
            outputs=["checkpoint", "report.json"],
            counts={
                "train": {"ok": tokenizer.vocab_size, "failed": 0, "filtered": 0, "skipped": 0}
            },
            metrics={key: float(value) for key, value in report.items()},
        )


if __name__ == "__main__":
    raise SystemExit(main())
