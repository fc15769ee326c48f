"""Training through Ray Train, and scoring through Ray Data, on a real cluster."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from actors.tagging import score_conversations
from actors.train_worker import WorkerSettings, discard_states, train
from moss.config.model import ModelConfig
from moss.config.optimization import OptimizerConfig, ParallelConfig, TrainingConfig
from moss.errors import DataError, ResourceError
from moss.models import PreferenceModel, load_policy, save_preference_model
from moss.scoring import score_sequences
from moss.tracking import read_metrics
from moss.training import run_training
from moss.training_tasks import LanguageModelTask

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]


def task(
    folder: Path, tokenizer: Path, *, parallel: ParallelConfig, vocab: int = 300
) -> LanguageModelTask:
    folder.mkdir(parents=True)
    stream = np.random.default_rng(0).integers(2, vocab, 3000).astype(np.int32)
    np.save(folder / "stream.npy", stream)
    return LanguageModelTask(
        training=TrainingConfig(
            batch_size=8,
            max_length=32,
            micro_batch_tokens=96,
            max_steps=8,
            checkpoint_every_steps=4,
            log_every_steps=1,
            optimizer=OptimizerConfig(learning_rate=1e-2),
            parallel=parallel,
        ),
        tokenizer_folder=str(tokenizer),
        train_file=str(folder / "stream.npy"),
        checkpoint_folder=str(folder / "checkpoint"),
        base_folder=None,
        model=ModelConfig(hidden_size=32, num_layers=2, num_heads=2, intermediate_size=64),
        seed=3,
    )


@pytest.mark.timeout(600)
def test_zero_3_on_two_workers_equals_one_plain_process(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    import torch

    alone = task(tmp_path / "alone", tiny_checkpoint, parallel=ParallelConfig(num_threads=1))
    losses: list[float] = []
    run_training(alone, str(tmp_path / "states"), lambda report: losses.append(report.loss))
    sharded = task(
        tmp_path / "sharded",
        tiny_checkpoint,
        parallel=ParallelConfig(
            num_workers=2,
            zero_stage=3,
            num_threads=1,
            cpus_per_worker=0.5,
            gradient_checkpointing=True,
        ),
    )
    final = train(sharded, stage="pretrain", run_folder=str(tmp_path / "sharded"), num_steps=8)
    logged = dict(read_metrics(str(tmp_path / "sharded")))
    assert [logged[step]["train/loss_nats"] for step in range(1, 9)] == pytest.approx(
        losses, rel=1e-4
    )
    assert losses[-1] < losses[0]
    assert final["train/seen_tokens"] == 8 * 8 * 32
    assert final["cost/cpu_s"] > 1
    assert final["memory/peak_bytes"] > 200 * 2**20  # two workers, each with torch
    assert not list((tmp_path / "sharded").glob("training-usage-*"))
    first = load_policy(alone.checkpoint_folder).state_dict()
    second = load_policy(sharded.checkpoint_folder).state_dict()
    assert all(torch.allclose(first[name], second[name], atol=2e-4) for name in first)
    assert (tmp_path / "sharded" / "checkpoint" / "tokenizer.json").is_file()
    discard_states(str(tmp_path / "sharded"))
    assert not (tmp_path / "sharded" / "states").exists()


@pytest.mark.timeout(300)
def test_an_error_of_ours_in_a_worker_reaches_the_job_as_itself(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    broken = task(
        tmp_path / "broken",
        tiny_checkpoint,
        parallel=ParallelConfig(num_threads=1, cpus_per_worker=0.5),
    )
    np.save(tmp_path / "broken" / "stream.npy", np.zeros(5, np.int32))
    with pytest.raises(DataError, match="holds 5 tokens, one window needs 32"):
        train(broken, stage="pretrain", run_folder=str(tmp_path / "broken"), num_steps=8)


def test_more_workers_than_the_cluster_holds_are_refused_before_any_starts(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    large = task(tmp_path / "large", tiny_checkpoint, parallel=ParallelConfig(num_workers=8))
    with pytest.raises(ResourceError, match="8 training worker"):
        train(large, stage="pretrain", run_folder=str(tmp_path / "large"), num_steps=8)
    assert WorkerSettings(large, str(tmp_path)).task.training.parallel.num_workers == 8


@pytest.mark.timeout(300)
def test_scores_through_ray_data_equal_scores_in_this_process(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    model = PreferenceModel.from_policy(tiny_checkpoint, seed=0).eval()
    save_preference_model(tmp_path, model, tokenizer_folder=tiny_checkpoint)
    rng = np.random.default_rng(2)
    rows = [rng.integers(2, 300, rng.integers(3, 40)).tolist() for _ in range(600)]
    scores = score_conversations(
        rows, checkpoint=str(tmp_path), scorers=1, num_threads=1, token_budget=1024
    )
    assert scores == pytest.approx(score_sequences(model, rows, token_budget=1024), abs=1e-5)
