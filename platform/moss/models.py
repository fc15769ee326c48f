"""Policies, and the preference and value models that are made from them.

Checkpoints. A policy's folder is a Transformers checkpoint with its tokenizer, which vLLM and
`AutoModelForCausalLM` load as it is. A preference model's folder is the Transformers checkpoint of
the body (`AutoModel` loads it), `value_head.safetensors`, and `preference.json` with the mean and
standard deviation of its scores on validation responses.

Shapes: `B` sequences, `T` tokens, `H` hidden size.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    CodeGenConfig,
    CodeGenForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from moss.config.model import ModelConfig
from moss.errors import DataError, ShapeError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from moss.tokenizer import MossTokenizer

TOKENIZER_FILES: Final = ("tokenizer.json", "tokenizer_config.json", "moss_tokenizer.json")
VALUE_HEAD_FILE: Final = "value_head.safetensors"
SCORES_FILE: Final = "preference.json"
V = TypeVar("V", bound="ValueModel")


def build_policy(
    config: ModelConfig, *, vocab_size: int, pad_id: int, eos_id: int, seed: int
) -> PreTrainedModel:
    """A policy with random weights; the same seed gives the same weights.

    Args:
        vocab_size: rows of the embedding (`MossTokenizer.padded_vocab_size`).
    """
    shared = {
        "vocab_size": vocab_size,
        "pad_token_id": pad_id,
        "eos_token_id": eos_id,
        "bos_token_id": eos_id,
        "tie_word_embeddings": config.tie_embeddings,
        "initializer_range": config.initializer_std,
        "dtype": "float32",
    }
    torch.manual_seed(seed)
    if config.architecture == "codegen":
        return CodeGenForCausalLM(
            CodeGenConfig(
                n_embd=config.hidden_size,
                n_layer=config.num_layers,
                n_head=config.num_heads,
                n_inner=config.intermediate_size,
                n_positions=config.max_positions,
                rotary_dim=config.rotary_dim,
                **shared,
            )
        )
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads or config.num_heads,
            intermediate_size=config.intermediate_size,
            max_position_embeddings=config.max_positions,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            **shared,
        )
    )


def build_policy_for(
    tokenizer: MossTokenizer, config: ModelConfig, *, seed: int
) -> PreTrainedModel:
    """The same, with the vocabulary and special tokens of a tokenizer."""
    return build_policy(
        config,
        vocab_size=tokenizer.padded_vocab_size,
        pad_id=tokenizer.pad_id,
        eos_id=tokenizer.eos_id,
        seed=seed,
    )


def load_policy(folder: str | Path, *, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A policy from a Transformers checkpoint folder, its weights rounded to `dtype`.

    Raises:
        DataError: the folder holds no checkpoint.
    """
    _require_checkpoint(folder)
    return AutoModelForCausalLM.from_pretrained(str(folder), dtype=dtype, local_files_only=True)


def grow_vocabulary(model: PreTrainedModel, num_rows: int, *, seed: int) -> None:
    """Add rows to embedding and head, in place; the rows that are there stay bitwise.

    New rows are drawn around the mean of the old ones (Hewitt 2021), so that a fresh token starts
    about as likely as an average one.

    Raises:
        DataError: the model already has more rows.
    """
    present = int(model.get_input_embeddings().weight.shape[0])
    if num_rows < present:
        raise DataError(
            f"the tokenizer needs {num_rows} rows but the base model has {present}; a tokenizer "
            "that extends the base never has fewer, so one of the two is the wrong one"
        )
    if num_rows > present:
        torch.manual_seed(seed)
        model.resize_token_embeddings(num_rows, mean_resizing=True)


def save_model(
    folder: str | Path,
    model: PreTrainedModel,
    *,
    tokenizer_folder: str | Path | None,
    weights: dict[str, Tensor] | None = None,
) -> None:
    """Write a model as a Transformers checkpoint, with a copy of its tokenizer's files.

    Args:
        weights: written in place of the model's own, of which it may hold a shard only.
    """
    target = Path(folder)
    model.save_pretrained(str(target), state_dict=weights)
    if tokenizer_folder is None:
        return
    for name in TOKENIZER_FILES:
        source = Path(tokenizer_folder) / name
        if source.is_file():
            shutil.copyfile(source, target / name)


def flush_left(ids_BT: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Move real tokens to the front of each row, in order, and zero everything else.

    A causal model then needs no attention mask: no real token has padding before it. So what
    stands in padding, and on which side, cannot change a result.

    Args:
        mask_BT: 1 on real tokens; padding left, right or between.
    Returns: ids (B, T) moved, lengths (B,), and for each original position its new one (B, T).
    Raises:
        ShapeError: shapes differ or a row has no real token.
    """
    if ids_BT.shape != mask_BT.shape:
        raise ShapeError(
            f"ids are {tuple(ids_BT.shape)}, mask {tuple(mask_BT.shape)}; expected equal"
        )
    real_BT = mask_BT.bool()
    lengths_B = real_BT.sum(dim=1)
    if not bool((lengths_B > 0).all()):
        raise ShapeError("a row of the batch has no real token; drop it before scoring")
    order_BT = torch.argsort((~real_BT).to(torch.int8), dim=1, stable=True)
    moved_BT = ids_BT.gather(1, order_BT)
    inside_BT = torch.arange(ids_BT.shape[1], device=ids_BT.device) < lengths_B[:, None]
    return moved_BT * inside_BT, lengths_B, torch.argsort(order_BT, dim=1)


class ValueModel(nn.Module):
    """A body with a linear head that gives one number per token: PPO's critic."""

    def __init__(self, body: PreTrainedModel) -> None:
        super().__init__()
        self.body = body
        hidden = int(body.config.hidden_size)
        self.value_head = nn.Linear(hidden, 1)
        # Small, so that scores start close together and the loss near log 2.
        nn.init.normal_(self.value_head.weight, std=1.0 / (hidden + 1))
        nn.init.zeros_(self.value_head.bias)

    def forward(self, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Values (B, T) in score units, fp32; 0 where `mask_BT` is 0.

        Raises:
            ShapeError: shapes differ or a row has no real token.
        """
        moved_BT, _, position_BT = flush_left(ids_BT, mask_BT)
        values_BT = self.values_of_packed(moved_BT).gather(1, position_BT)
        return values_BT * mask_BT.to(values_BT.dtype)

    def values_of_packed(self, ids_BT: Tensor) -> Tensor:
        """Values (B, T) of rows that hold padding on the right only."""
        hidden_BTH = self.body(input_ids=ids_BT, use_cache=False).last_hidden_state
        values_BT: Tensor = self.value_head(hidden_BTH).squeeze(-1).float()
        return values_BT

    @classmethod
    def from_preference_model(
        cls, folder: str | Path, *, dtype: torch.dtype = torch.float32
    ) -> ValueModel:
        """A critic that starts as the preference model of `folder`.

        Args:
            dtype: of the body; the head is in fp32.
        """
        model, _ = _load_with_head(cls, folder, dtype)
        return model


class PreferenceModel(ValueModel):
    """Body and value head read at the last real token: r(x, y) of the paper's Eq. 1."""

    score_mean: float = 0.0
    score_std: float = 1.0

    def forward(self, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Scores (B,), fp32, the same for either padding side and any padding content.

        Raises:
            ShapeError: shapes differ or a row has no real token.
        """
        moved_BT, lengths_B, _ = flush_left(ids_BT, mask_BT)
        values_BT = self.values_of_packed(moved_BT)
        return values_BT.gather(1, (lengths_B - 1)[:, None]).squeeze(1)

    @classmethod
    def from_policy(cls, folder: str | Path, *, seed: int) -> PreferenceModel:
        """A policy's body with a fresh head in place of its LM head (section 7.1)."""
        _require_checkpoint(folder)
        torch.manual_seed(seed)
        return cls(load_policy(folder).base_model)

    @classmethod
    def load(cls, folder: str | Path) -> PreferenceModel:
        """Read what `save_preference_model` wrote.

        Raises:
            DataError: the folder holds no preference model.
        """
        model, scores = _load_with_head(cls, folder, torch.float32)
        model.score_mean, model.score_std = scores["mean"], scores["std"]
        return model


def save_preference_model(
    folder: str | Path, model: PreferenceModel, *, tokenizer_folder: str | Path | None
) -> None:
    """Write body, head and score statistics; see the module for the layout."""
    save_model(folder, model.body, tokenizer_folder=tokenizer_folder)
    head = {
        name: value.detach().contiguous() for name, value in model.value_head.state_dict().items()
    }
    save_file(head, str(Path(folder) / VALUE_HEAD_FILE))
    scores = {"mean": model.score_mean, "std": model.score_std}
    (Path(folder) / SCORES_FILE).write_text(json.dumps(scores) + "\n")


def _load_with_head(
    model_class: type[V], folder: str | Path, dtype: torch.dtype
) -> tuple[V, dict[str, float]]:
    _require_checkpoint(folder)
    head_file = Path(folder) / VALUE_HEAD_FILE
    if not head_file.is_file():
        raise DataError(
            f"{folder} holds a model without {VALUE_HEAD_FILE}; expected the checkpoint of "
            "`python -m jobs.train_preference_model`"
        )
    body = AutoModel.from_pretrained(str(folder), dtype=dtype, local_files_only=True)
    model = model_class(body)
    model.value_head.load_state_dict(load_file(str(head_file)))
    scores: dict[str, float] = json.loads((Path(folder) / SCORES_FILE).read_text())
    return model, scores


def _require_checkpoint(folder: str | Path) -> None:
    if not (Path(folder) / "config.json").is_file():
        raise DataError(
            f"{folder} holds no model checkpoint (no config.json); run the stage that trains it "
            "or correct the path"
        )
