"""Model architecture as configuration, with parameter arithmetic.

The vocabulary size is not here: it comes from the tokenizer a model is built with.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from moss.config.base import Config


class ModelConfig(Config):
    """Shape of a decoder-only Transformer; the defaults are the `tiny` model.

    `llama`: RMSNorm, gated MLP, rotary positions on whole heads. `codegen`: the paper's base, one
    LayerNorm per block, attention and MLP in parallel, rotary positions on `rotary_dim` of a head.
    """

    architecture: Literal["llama", "codegen"] = "llama"
    hidden_size: int = Field(128, gt=0)
    num_layers: int = Field(3, gt=0)
    num_heads: int = Field(4, gt=0)
    num_kv_heads: int | None = Field(None, gt=0)
    """Key and value heads of `llama` (grouped queries); None for as many as `num_heads`."""
    intermediate_size: int = Field(384, gt=0)
    """Width of the MLP; the paper's CodeGen uses four times `hidden_size`."""
    max_positions: int = Field(384, gt=1)
    """Longest sequence in tokens."""
    tie_embeddings: bool = True
    """Share the input embedding with the LM head; the paper's base does not."""
    rotary_dim: int = Field(32, gt=0)
    """Rotated dimensions of a head; `llama` always rotates the whole head."""
    rope_theta: float = Field(10_000.0, gt=0)
    initializer_std: float = Field(0.02, gt=0)

    @model_validator(mode="after")
    def heads_divide_hidden_size(self) -> Self:
        """Every head has the same whole number of dimensions."""
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} does not split into num_heads={self.num_heads} "
                f"equal heads ({self.hidden_size / self.num_heads:.2f} each); choose a divisor"
            )
        return self

    @model_validator(mode="after")
    def kv_heads_divide_heads(self) -> Self:
        """Every key head serves the same whole number of query heads."""
        if self.num_kv_heads and self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads={self.num_heads} is no multiple of num_kv_heads={self.num_kv_heads}"
            )
        if self.num_kv_heads and self.architecture == "codegen":
            raise ValueError("codegen has one key head per query head; leave num_kv_heads out")
        return self

    @property
    def head_dim(self) -> int:
        """Dimensions of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def kv_size(self) -> int:
        """Width of all key heads of a token together; the values have the same."""
        return (self.num_kv_heads or self.num_heads) * self.head_dim

    def num_parameters(self, vocab_size: int) -> int:
        """Parameters of the policy built with a vocabulary of `vocab_size` rows."""
        head = 0 if self.tie_embeddings else vocab_size * self.hidden_size
        bias = vocab_size if self.architecture == "codegen" else 0
        return self.num_body_parameters(vocab_size) + head + bias

    def num_body_parameters(self, vocab_size: int) -> int:
        """Parameters without the LM head, of which critic and preference model are made."""
        hidden, inner = self.hidden_size, self.intermediate_size
        attention = 2 * hidden * hidden + 2 * hidden * self.kv_size
        if self.architecture == "llama":
            block, final_norm = attention + 3 * hidden * inner + 2 * hidden, hidden
        else:
            block, final_norm = attention + 2 * hidden * inner + inner + 3 * hidden, 2 * hidden
        return vocab_size * hidden + self.num_layers * block + final_norm
