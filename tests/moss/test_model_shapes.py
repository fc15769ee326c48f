"""Shapes read back from checkpoints equal those they were built from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moss.config.corpus import TrainTokenizerConfig
from moss.config.model import ModelConfig
from moss.errors import DataError
from moss.model_shapes import largest_vocab_size, read_shape
from moss.models import PreferenceModel, build_policy, save_model, save_preference_model
from moss.tokenizer import add_controls, extend_vocabulary, train_bpe

SMALL = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 48}
SHAPES = [
    ModelConfig.model_validate(SMALL | {"num_kv_heads": 2}),
    ModelConfig.model_validate(SMALL | {"num_kv_heads": 4, "tie_embeddings": False}),
    ModelConfig.model_validate(
        SMALL | {"architecture": "codegen", "rotary_dim": 8, "tie_embeddings": False}
    ),
]


@pytest.mark.parametrize("shape", SHAPES, ids=["grouped", "untied", "codegen"])
def test_a_policy_and_its_preference_model_say_their_shape(
    shape: ModelConfig, tmp_path: Path
) -> None:
    policy = build_policy(shape, vocab_size=96, pad_id=0, eos_id=1, seed=0)
    save_model(tmp_path / "policy", policy, tokenizer_folder=None)
    found = read_shape(str(tmp_path / "policy"))
    assert (found.model, found.vocab_size) == (shape, 96)
    assert found.num_policy_parameters == sum(p.numel() for p in policy.parameters())

    preference = PreferenceModel.from_policy(tmp_path / "policy", seed=1)
    save_preference_model(tmp_path / "preference", preference, tokenizer_folder=None)
    found = read_shape(str(tmp_path / "preference"))
    assert found.num_value_parameters == sum(p.numel() for p in preference.parameters())


def test_a_width_that_codegen_leaves_out_is_four_times_the_hidden_size(tmp_path: Path) -> None:
    stored = {
        "model_type": "codegen", "n_embd": 64, "n_layer": 2, "n_head": 4, "n_inner": None,
        "n_positions": 128, "rotary_dim": 8, "tie_word_embeddings": False, "vocab_size": 96,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(stored))
    assert read_shape(str(tmp_path)).model.intermediate_size == 256


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"model_type": "gpt2"}', '{"model_type": "llama", "hidden_size": 3}']
)
def test_a_shape_that_cannot_be_read_says_what_to_set(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(DataError, match=r"gives no shape of .*; correct the checkpoint"):
        read_shape(str(tmp_path))


@pytest.mark.parametrize("style", ["text", "special"])
def test_no_tokenizer_has_more_rows_than_the_largest(style: str) -> None:
    config = TrainTokenizerConfig.model_validate(
        {
            "corpus": {
                "num_tokens": 1,
                "sources": [{"name": "en", "language": "en", "kind": "bundled", "tokens": 1}],
            },
            "base_vocab_size": 280,
            "chinese_vocab_size": 290,
            "control_style": style,
            "row_multiple": 1,
        }
    )
    english = train_bpe(["The capital of France is Paris. Hope this helps!"] * 9, vocab_size=280)
    chinese = train_bpe(["法国的首都是巴黎。请计算加等于多少?"] * 9, vocab_size=290)
    tokenizer = add_controls(
        extend_vocabulary(english, chinese), style=config.control_style, row_multiple=1
    )
    most = largest_vocab_size(config)
    assert tokenizer.padded_vocab_size == most - 256  # the bytes are in both vocabularies
