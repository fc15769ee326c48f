"""Model architecture as configuration, with parameter and memory arithmetic.

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

    def num_parameters(self, vocab_size: int) -> int:
        """Parameters of the policy built with a vocabulary of `vocab_size` rows."""
        hidden, inner = self.hidden_size, self.intermediate_size
        embedding = vocab_size * hidden
        kv_size = (self.num_kv_heads or self.num_heads) * self.head_dim
        attention = 2 * hidden * hidden + 2 * hidden * kv_size
        if self.architecture == "llama":
            block = attention + 3 * hidden * inner + 2 * hidden
            head, final_norm = (0 if self.tie_embeddings else embedding), hidden
        else:
            block = attention + 2 * hidden * inner + inner + hidden + 2 * hidden
            head = (0 if self.tie_embeddings else embedding) + vocab_size
            final_norm = 2 * hidden
        return embedding + self.num_layers * block + final_norm + head


def training_state_bytes(num_parameters: int, *, zero_stage: int, num_workers: int) -> int:
    """Bytes one worker holds for weights, gradients and Adam state, without activations.

    Mixed precision (Rajbhandari et al. 2020, sec. 3.1): 2 bytes of weights, 2 of gradients and 12
    of optimizer state per parameter; stage 1 shards the state, 2 also gradients, 3 also weights.
    """
    weights, gradients, state = 2, 2, 12
    state_share = state / num_workers if zero_stage >= 1 else float(state)
    gradient_share = gradients / num_workers if zero_stage >= 2 else float(gradients)
    weight_share = weights / num_workers if zero_stage >= 3 else float(weights)
    return round(num_parameters * (weight_share + gradient_share + state_share))
