"""The training loop alone in a process: engine, resume, phases, objectives."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from moss.config.model import ModelConfig
from moss.config.optimization import OptimizerConfig, ParallelConfig, TrainingConfig
from moss.config.unfreezing import UnfreezingConfig, UnfreezingPhase
from moss.engine import TrainingEngine
from moss.errors import ConfigError, DataError
from moss.models import PreferenceModel, build_policy
from moss.objectives import ComparedResponses, LanguageModelObjective, PreferenceObjective
from moss.packing import TokenSequences
from moss.training import StepReport, run_training
from moss.unfreezing import plan_phases

SHAPE = ModelConfig(hidden_size=16, num_layers=2, num_heads=2, intermediate_size=32)
ADAM = OptimizerConfig(learning_rate=1e-2, weight_decay=0.1, warmup_ratio=0.1)


def policy(seed: int = 0) -> nn.Module:
    model: nn.Module = build_policy(SHAPE, vocab_size=64, pad_id=0, eos_id=1, seed=seed)
    return model


def training(**changes: object) -> TrainingConfig:
    data: dict[str, object] = {
        "batch_size": 4,
        "max_length": 16,
        "micro_batch_tokens": 32,
        "num_epochs": 2,
        "checkpoint_every_steps": 3,
        "optimizer": ADAM,
        "parallel": ParallelConfig(num_threads=1),
    }
    return TrainingConfig.model_validate(data | changes)


def sequences(num: int = 24) -> TokenSequences:
    rng = np.random.default_rng(0)
    ids = [rng.integers(2, 64, rng.integers(3, 16)).tolist() for _ in range(num)]
    return TokenSequences.from_lists(ids, [[0] + [1] * (len(row) - 1) for row in ids])


@dataclass
class Task:
    """A language-model task held in memory."""

    training: TrainingConfig
    unfreezing: UnfreezingConfig | None = None
    exported: nn.Module | None = None

    def build_model(self) -> nn.Module:
        return policy()

    def build_objective(self) -> LanguageModelObjective:
        return LanguageModelObjective(sequences(), self.training, pad_id=0, seed=1)

    def export(self, model: nn.Module) -> dict[str, float]:
        self.exported = model
        return {"done": 1.0}


def run(task: Task, folder: Path, stop_after: int | None = None) -> list[StepReport]:
    reports: list[StepReport] = []

    def on_step(report: StepReport) -> None:
        reports.append(report)
        if report.step == stop_after:
            raise KeyboardInterrupt

    try:
        run_training(task, str(folder), on_step)
    except KeyboardInterrupt:
        assert stop_after
    return reports


def plain_training(config: TrainingConfig) -> tuple[list[float], nn.Module]:
    """The same run in a dozen lines of torch: one sequence at a time, no engine, no padding."""
    model, source = policy(), sequences()
    objective = LanguageModelObjective(source, config, pad_id=0, seed=1)
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups: list[dict[str, object]] = [
        {"params": matrices},
        {"params": vectors, "weight_decay": 0.0},
    ]
    adam = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.95), weight_decay=0.1)
    losses = []
    from moss.packing import batch_items

    for step in range(objective.num_steps):
        items = batch_items(step, batch_size=config.batch_size, num_items=24, seed=1)
        rows = [source.sequence(item)[0].tolist() for item in items]
        weight = sum(len(row) - 1 for row in rows)
        total = torch.zeros(())
        for row in rows:
            ids = torch.tensor([row])
            logits = model(input_ids=ids).logits[0, :-1]
            total = total + nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum")
        (total / weight).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in adam.param_groups:
            group["lr"] = config.optimizer.learning_rate_at(step, objective.num_steps)
        adam.step()
        adam.zero_grad()
        losses.append(float(total.detach()) / weight)
    return losses, model


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_every_zero_stage_equals_plain_torch(zero_stage: int, tmp_path: Path) -> None:
    config = training(parallel=ParallelConfig(num_threads=1, zero_stage=zero_stage))
    task = Task(config)
    losses = [report.loss for report in run(task, tmp_path)]
    expected, model = plain_training(config)
    assert losses == pytest.approx(expected, rel=1e-4)
    assert losses[-1] < losses[0]
    assert task.exported is not None
    trained = dict(task.exported.named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.allclose(trained[name], parameter, atol=2e-4), name


@pytest.mark.parametrize("micro_batch_tokens", [16, 1000])
def test_micro_batches_do_not_change_the_result(micro_batch_tokens: int, tmp_path: Path) -> None:
    reference = [report.loss for report in run(Task(training()), tmp_path / "a")]
    task = Task(training(micro_batch_tokens=micro_batch_tokens))
    assert [r.loss for r in run(task, tmp_path / "b")] == pytest.approx(reference, rel=1e-4)


def test_gradient_checkpointing_does_not_change_the_result(tmp_path: Path) -> None:
    reference = [report.loss for report in run(Task(training()), tmp_path / "a")]
    config = training(parallel=ParallelConfig(num_threads=1, gradient_checkpointing=True))
    assert [r.loss for r in run(Task(config), tmp_path / "b")] == pytest.approx(reference, rel=1e-5)


@pytest.mark.parametrize("zero_stage", [0, 2])
def test_a_killed_run_resumes_with_the_same_losses_bit_for_bit(
    zero_stage: int, tmp_path: Path
) -> None:
    config = training(parallel=ParallelConfig(num_threads=1, zero_stage=zero_stage))
    whole = run(Task(config), tmp_path / "whole")
    run(Task(config), tmp_path / "killed", stop_after=8)
    rest = run(Task(config), tmp_path / "killed")
    assert rest[0].step == 7
    assert [r.loss for r in rest] == [r.loss for r in whole[6:]]
    assert [r.grad_norm for r in rest] == [r.grad_norm for r in whole[6:]]


PHASES = UnfreezingConfig(
    phases=(
        UnfreezingPhase(trainable="new_rows", share=0.25),
        UnfreezingPhase(trainable="embeddings_and_edges", share=0.25),
        UnfreezingPhase(trainable="all", share=0.5),
    ),
    num_edge_layers=0,
    num_base_rows=40,
)


def exported_state(config: UnfreezingConfig, tmp_path: Path) -> dict[str, torch.Tensor]:
    task = Task(training(), config)
    run(task, tmp_path)
    assert task.exported is not None
    return task.exported.state_dict()


def test_only_the_rows_of_the_first_phase_move(tmp_path: Path) -> None:
    only_new = UnfreezingConfig(
        phases=(UnfreezingPhase(trainable="new_rows", share=1.0),), num_base_rows=40
    )
    before, after = policy().state_dict(), exported_state(only_new, tmp_path)
    for name, value in before.items():
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            assert torch.equal(after[name][:40], value[:40])
            assert not torch.equal(after[name][40:], value[40:])
        else:
            assert torch.equal(after[name], value), name


def test_blocks_rest_until_their_phase(tmp_path: Path) -> None:
    no_blocks = UnfreezingConfig(
        phases=(UnfreezingPhase(trainable="embeddings_and_edges", share=1.0),), num_edge_layers=0
    )
    before, after = policy().state_dict(), exported_state(no_blocks, tmp_path)
    assert not torch.equal(after["model.embed_tokens.weight"], before["model.embed_tokens.weight"])
    blocks = [name for name in before if ".layers." in name]
    assert blocks
    assert all(torch.equal(after[name], before[name]) for name in blocks)


@pytest.mark.parametrize("stop_after", [2, 4, 7])
def test_phases_resume_with_the_same_losses(stop_after: int, tmp_path: Path) -> None:
    config = training(checkpoint_every_steps=1)
    whole = [r.loss for r in run(Task(config, PHASES), tmp_path / "whole")]
    first = run(Task(config, PHASES), tmp_path / "killed", stop_after=stop_after)
    rest = run(Task(config, PHASES), tmp_path / "killed")
    assert [r.loss for r in first[: rest[0].step - 1]] + [r.loss for r in rest] == whole


def test_phases_cover_every_step_once() -> None:
    phases = plan_phases(UnfreezingConfig(), 1000)
    assert [(p.start, p.end) for p in phases] == [(0, 10), (10, 50), (50, 1000)]
    assert plan_phases(UnfreezingConfig(), 10)[-1].end == 10


def test_a_step_without_a_finite_loss_and_gradient_is_skipped_and_counted() -> None:
    for zero_stage in (0, 1, 3):
        parallel = ParallelConfig(num_threads=1, zero_stage=zero_stage)
        engine = TrainingEngine(policy(), ADAM, parallel)
        ids = torch.arange(8)[None]

        def loss(model: nn.Module, factor: float, ids: torch.Tensor = ids) -> torch.Tensor:
            logits: torch.Tensor = model(input_ids=ids).logits
            return logits.mean() * factor

        before = engine.full_state_dict()
        engine.forward_backward(lambda model: loss(model, math.nan))
        assert engine.optim_step(1e-2).skipped
        after = engine.full_state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)
        engine.forward_backward(lambda model: loss(model, 1.0) + math.inf)
        assert engine.optim_step(1e-2).skipped
        after = engine.full_state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)
        engine.forward_backward(lambda model: loss(model, 1.0))
        assert not engine.optim_step(1e-2).skipped
        assert engine.num_skipped == 2
        moved = engine.full_state_dict()
        assert any(not torch.equal(after[name], moved[name]) for name in after)
        engine.close()


def test_pipeline_stages_are_refused_plainly() -> None:
    with pytest.raises(ConfigError, match="pipeline_stages=2 is only planned"):
        TrainingEngine(policy(), ADAM, ParallelConfig(num_workers=2, pipeline_stages=2))


def test_too_little_data_for_one_batch_is_refused() -> None:
    with pytest.raises(DataError, match="24 sequences x num_epochs=1 do not fill one batch"):
        LanguageModelObjective(sequences(), training(batch_size=32, num_epochs=1), pad_id=0, seed=0)


def compared(num_prompts: int) -> list[ComparedResponses]:
    rng = np.random.default_rng(1)
    found = []
    for _ in range(num_prompts):
        rows = [rng.integers(2, 64, rng.integers(3, 9)).tolist() for _ in range(6)]
        found.append(ComparedResponses(rows, [(i, j) for i in range(6) for j in range(i)]))
    return found


@pytest.mark.parametrize("num_workers", [1, 2, 4])
def test_a_preference_batch_holds_exactly_its_pairs_for_any_number_of_workers(
    num_workers: int,
) -> None:
    config = training(
        batch_size=48,
        num_epochs=1,
        micro_batch_tokens=200,
        parallel=ParallelConfig(num_workers=num_workers),
    )
    prompts = compared(10)
    objective = PreferenceObjective(prompts, config, pad_id=0, seed=0)
    assert objective.num_steps == 150 // 48
    torch.manual_seed(0)
    model = PreferenceModel(policy().base_model).eval()
    total, expected = 0.0, 0.0
    for step in range(objective.num_steps):
        plan = objective.plan(step)
        assert plan.weight == 48
        assert len(plan.losses) == num_workers
        assert len({len(worker) for worker in plan.losses}) == 1
        for worker in plan.losses:
            total += sum(float(loss(model, torch.device("cpu")).detach()) for loss in worker)
    order = np.random.default_rng([0, 0]).permutation(10)
    pairs = [(prompts[p], pair) for p in order for pair in prompts[p].pairs][:144]
    for prompt, (winner, loser) in pairs:
        scores = [
            float(model(torch.tensor([ids]), torch.ones(1, len(ids))).detach())
            for ids in (prompt.sequences[winner], prompt.sequences[loser])
        ]
        expected += math.log1p(math.exp(scores[1] - scores[0]))
    assert total == pytest.approx(expected, rel=1e-5)
