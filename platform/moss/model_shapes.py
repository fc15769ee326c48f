"""The shape of a model that may not exist yet: from its checkpoint's config.json, or from configs.

Nothing here loads weights or imports torch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from moss.config.corpus import TrainTokenizerConfig
from moss.config.model import ModelConfig
from moss.errors import DataError
from moss.tokenizer import control_names

_KEYS: Final[dict[str, dict[str, str]]] = {
    "llama": {
        "hidden_size": "hidden_size",
        "num_layers": "num_hidden_layers",
        "num_heads": "num_attention_heads",
        "num_kv_heads": "num_key_value_heads",
        "intermediate_size": "intermediate_size",
        "max_positions": "max_position_embeddings",
    },
    "codegen": {
        "hidden_size": "n_embd",
        "num_layers": "n_layer",
        "num_heads": "n_head",
        "intermediate_size": "n_inner",
        "max_positions": "n_positions",
        "rotary_dim": "rotary_dim",
    },
}
"""Our key -> Transformers' key, by `model_type`."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A policy's architecture with its vocabulary; of a preference model, that of its policy."""

    model: ModelConfig
    vocab_size: int
    """Rows of the embedding."""
    source: str
    """Where the figures come from, for a report."""

    @property
    def num_policy_parameters(self) -> int:
        """Parameters with the LM head."""
        return self.model.num_parameters(self.vocab_size)

    @property
    def num_value_parameters(self) -> int:
        """Parameters of the body with a value head: critic and preference model."""
        return self.model.num_body_parameters(self.vocab_size) + self.model.hidden_size + 1


def read_shape(checkpoint: str) -> ModelShape:
    """The shape that the config.json of a checkpoint folder says.

    Raises:
        DataError: no readable config.json, or an architecture that is neither llama nor codegen.
    """
    file = Path(checkpoint, "config.json")
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        names = _KEYS[stored["model_type"]]
        values = {key: stored[name] for key, name in names.items()}
        if values["intermediate_size"] is None:  # CodeGen's config leaves its usual width out
            values["intermediate_size"] = 4 * values["hidden_size"]
        model = ModelConfig.model_validate(
            values
            | {
                "architecture": stored["model_type"],
                "tie_embeddings": stored.get("tie_word_embeddings", False),
            }
        )
        return ModelShape(model, int(stored["vocab_size"]), f"{file}")
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise DataError(
            f"{file} gives no shape of {' or '.join(_KEYS)} ({type(error).__name__}: {error}); "
            "correct the checkpoint, or set model and vocab_size to what comes near it"
        ) from error


def largest_vocab_size(config: TrainTokenizerConfig) -> int:
    """Most embedding rows that a tokenizer of this config can need: no entry of the Chinese
    vocabulary is in the base vocabulary already."""
    entries = config.base_vocab_size + config.chinese_vocab_size
    entries += len(control_names(config.control_style))
    return -(-entries // config.row_multiple) * config.row_multiple
