"""Batch arithmetic, schedules and the paper's figures."""

from itertools import pairwise
from pathlib import Path

import pytest
from pydantic import ValidationError

from moss.config import load_config
from moss.config.model import ModelConfig
from moss.config.optimization import OptimizerConfig, ParallelConfig, TrainingConfig
from moss.config.training import (
    PretrainConfig,
    TrainPATConfig,
    TrainPreferenceModelConfig,
    TrainSFTConfig,
)

CONFIGS = Path(__file__).resolve().parents[2] / "jobs" / "configs"
ADAM = OptimizerConfig(learning_rate=1.0)


def test_a_batch_that_does_not_divide_is_refused_with_the_sum() -> None:
    with pytest.raises(
        ValidationError, match=r"batch_size=32 over 3 .* is 10\.67 .*choose 30 or 33"
    ):
        TrainingConfig(batch_size=32, optimizer=ADAM, parallel=ParallelConfig(num_workers=3))


def test_incomplete_pipelines_are_refused() -> None:
    with pytest.raises(ValidationError, match="num_workers=3 does not split into pipelines"):
        ParallelConfig(num_workers=3, pipeline_stages=2)


def test_a_micro_batch_below_the_longest_example_is_refused() -> None:
    with pytest.raises(ValidationError, match="micro_batch_tokens=100 is below max_length=200"):
        TrainingConfig(micro_batch_tokens=100, max_length=200, optimizer=ADAM)


def test_rate_warms_up_peaks_and_decays_monotonically_to_the_final_share() -> None:
    config = OptimizerConfig(learning_rate=3e-5, warmup_ratio=0.02, final_ratio=0.1)
    rates = [config.learning_rate_at(step, 1000) for step in range(1000)]
    assert rates[0] > 0
    assert rates[20] == max(rates) == pytest.approx(3e-5)
    assert rates[-1] == pytest.approx(3e-6)
    assert all(later <= earlier for earlier, later in pairwise(rates[20:]))


def test_without_warmup_the_first_step_has_the_peak_rate() -> None:
    config = OptimizerConfig(learning_rate=6e-6, warmup_ratio=0.0)
    assert config.learning_rate_at(0, 100) == pytest.approx(6e-6)


def test_paper_architecture_counts_as_many_parameters_as_the_original() -> None:
    config = load_config(PretrainConfig, CONFIGS / "pretrain" / "paper.yaml")
    assert config.model.num_parameters(107_008) == pytest.approx(16.718e9, rel=1e-4)
    assert config.model.num_parameters(51_200) == pytest.approx(16.032e9, rel=1e-4)
    assert config.model.head_dim == 256


def test_pretraining_preset_holds_section_3() -> None:
    config = load_config(PretrainConfig, CONFIGS / "pretrain" / "paper.yaml")
    training = config.training
    assert training.batch_size * training.max_length == pytest.approx(2.6e6, rel=0.01)
    assert training.batch_size // training.parallel.num_data_workers == 20
    assert (training.parallel.num_workers, training.parallel.pipeline_stages) == (128, 2)
    adam = training.optimizer
    assert (adam.beta1, adam.beta2, adam.weight_decay) == (0.9, 0.95, 0.1)
    steps = training.num_steps(config.corpus.num_tokens // training.max_length)
    assert steps == pytest.approx(258_293, abs=2)
    peak = round(adam.warmup_ratio * steps)
    assert adam.learning_rate_at(peak, steps) == pytest.approx(3e-5)
    assert adam.learning_rate_at(steps - 1, steps) == pytest.approx(3e-6)
    ratios = [round(100 * ratio, 1) for ratio in config.corpus.ratios().values()]
    assert ratios == [57.1, 17.6, 10.6, 0.7, 14.1]


def test_fine_tuning_presets_hold_sections_5_and_7() -> None:
    for name in ("paper", "paper_warmup"):
        sft = load_config(TrainSFTConfig, CONFIGS / "train_sft" / f"{name}.yaml").training
        assert (sft.num_epochs, sft.batch_size, sft.max_length) == (2, 32, 2048)
        assert sft.optimizer.learning_rate == 9e-6
        assert (sft.parallel.num_workers, sft.parallel.zero_stage) == (8, 3)
        assert sft.parallel.gradient_checkpointing
    file = CONFIGS / "train_preference_model" / "paper.yaml"
    preference = load_config(TrainPreferenceModelConfig, file).training
    assert (preference.num_epochs, preference.batch_size) == (1, 48)
    assert preference.optimizer.learning_rate_at(0, 1000) == 6e-6
    pat = load_config(TrainPATConfig, CONFIGS / "train_pat" / "paper.yaml")
    assert pat.num_conversations == 100_000
    assert (pat.training.num_epochs, pat.training.optimizer.learning_rate) == (2, 6e-6)


def test_parameter_count_equals_the_built_model() -> None:
    from moss.models import build_policy

    shapes = [
        ModelConfig(hidden_size=32, num_layers=2, num_heads=4, intermediate_size=48),
        ModelConfig(
            hidden_size=32, num_layers=1, num_heads=4, num_kv_heads=2, tie_embeddings=False
        ),
        ModelConfig(
            architecture="codegen",
            hidden_size=32,
            num_layers=2,
            num_heads=4,
            intermediate_size=128,
            rotary_dim=8,
            tie_embeddings=False,
        ),
    ]
    for shape in shapes:
        model = build_policy(shape, vocab_size=96, pad_id=0, eos_id=1, seed=0)
        built = sum(parameter.numel() for parameter in model.parameters())
        assert built == shape.num_parameters(96), shape
