"""Preference and value models, checkpoints, growing vocabularies."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from moss.errors import DataError, ShapeError
from moss.models import (
    PreferenceModel,
    ValueModel,
    flush_left,
    grow_vocabulary,
    load_policy,
    save_model,
    save_preference_model,
)

ROWS = [[5, 6, 7, 8], [9, 10], [11, 12, 13]]


@pytest.fixture(scope="module")
def preference_model(tiny_checkpoint: Path) -> PreferenceModel:
    return PreferenceModel.from_policy(tiny_checkpoint, seed=1).eval()


def laid_out(side: str, garbage: int, width: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows padded on one side, or scattered with gaps."""
    ids_BT = torch.full((len(ROWS), width), garbage)
    mask_BT = torch.zeros_like(ids_BT)
    for index, row in enumerate(ROWS):
        places = {
            "right": range(len(row)),
            "left": range(width - len(row), width),
            "gaps": range(0, 2 * len(row), 2),
        }[side]
        for place, token in zip(places, row, strict=True):
            ids_BT[index, place], mask_BT[index, place] = token, 1
    return ids_BT, mask_BT


@pytest.mark.parametrize("side", ["right", "left", "gaps"])
@pytest.mark.parametrize("garbage", [0, 200])
def test_scores_do_not_depend_on_padding_side_or_content(
    preference_model: PreferenceModel, side: str, garbage: int
) -> None:
    with torch.no_grad():
        scores_B = preference_model(*laid_out(side, garbage, width=8))
        for row, score in zip(ROWS, scores_B, strict=True):
            alone = preference_model(torch.tensor([row]), torch.ones(1, len(row)))
            assert float(score) == pytest.approx(float(alone), abs=1e-5)


def test_padding_content_does_not_change_a_single_bit(preference_model: PreferenceModel) -> None:
    with torch.no_grad():
        first, second = (preference_model(*laid_out("left", garbage)) for garbage in (0, 99))
    assert torch.equal(first, second)


def test_values_stand_at_the_positions_of_their_tokens(tiny_checkpoint: Path) -> None:
    torch.manual_seed(0)
    critic = ValueModel(load_policy(tiny_checkpoint).base_model).eval()
    with torch.no_grad():
        right = critic(*laid_out("right", 3))
        left = critic(*laid_out("left", 77))
    for index, row in enumerate(ROWS):
        assert torch.allclose(right[index, : len(row)], left[index, -len(row) :], atol=1e-5)
        assert right[index, len(row) :].abs().sum() == 0


def test_a_row_of_padding_alone_is_refused() -> None:
    with pytest.raises(ShapeError, match="no real token"):
        flush_left(torch.zeros(1, 3, dtype=torch.int64), torch.zeros(1, 3))


def test_preference_model_survives_the_disk_and_starts_the_critic(
    preference_model: PreferenceModel, tmp_path: Path
) -> None:
    preference_model.score_mean, preference_model.score_std = 0.5, 2.0
    save_preference_model(tmp_path, preference_model, tokenizer_folder=None)
    loaded = PreferenceModel.load(tmp_path).eval()
    critic = ValueModel.from_preference_model(tmp_path).eval()
    ids_BT, mask_BT = laid_out("right", 0)
    with torch.no_grad():
        scores_B = preference_model(ids_BT, mask_BT)
        assert torch.equal(loaded(ids_BT, mask_BT), scores_B)
        last_B = mask_BT.sum(1, keepdim=True) - 1
        assert torch.allclose(critic(ids_BT, mask_BT).gather(1, last_B).squeeze(1), scores_B)
    assert (loaded.score_mean, loaded.score_std) == (0.5, 2.0)


def test_a_policy_is_not_a_preference_model(tiny_checkpoint: Path) -> None:
    with pytest.raises(DataError, match=r"without value_head\.safetensors"):
        PreferenceModel.load(tiny_checkpoint)


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no model checkpoint"):
        load_policy(tmp_path)


def test_a_saved_policy_loads_in_transformers_with_its_tokenizer(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    policy = load_policy(tiny_checkpoint).eval()
    save_model(tmp_path, policy, tokenizer_folder=tiny_checkpoint)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = torch.tensor([ROWS[0]])
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, policy(ids).logits)
    assert (tmp_path / "tokenizer.json").is_file()
    assert (tmp_path / "moss_tokenizer.json").is_file()


def test_growing_keeps_old_rows_bitwise_and_repeats_with_the_seed(tiny_checkpoint: Path) -> None:
    grown = []
    for _ in range(2):
        policy = load_policy(tiny_checkpoint)
        old = policy.get_input_embeddings().weight.detach().clone()
        grow_vocabulary(policy, len(old) + 64, seed=3)
        rows = policy.get_input_embeddings().weight.detach()
        assert torch.equal(rows[: len(old)], old)
        assert policy.get_output_embeddings().weight.shape == rows.shape
        grown.append(rows)
    assert torch.equal(*grown)


def test_a_smaller_vocabulary_is_refused(tiny_checkpoint: Path) -> None:
    with pytest.raises(DataError, match="needs 10 rows but the base model has"):
        grow_vocabulary(load_policy(tiny_checkpoint), 10, seed=0)
