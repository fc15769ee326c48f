"""Bytes that one model takes on one device, by part: arithmetic before anything starts.

Weights, gradients and optimizer state follow Rajbhandari et al. 2020 (ZeRO), sec. 3.1. Activations
follow the method of Korthikanti et al. 2022 (Reducing Activation Recomputation in Large Transformer
Models), sec. 4.1: go through a block operation by operation and count what the backward pass keeps.
Their 34 + 5AT/H bytes per token and H hold for a 16-bit GPT block with dropout; the counts here are
of the two blocks that `moss.models` builds, without dropout, as elements of any width. Kernels'
workspaces and an allocator's fragmentation are not counted.

Shapes: `B` sequences, `T` tokens of each, `N` tokens whose logits are computed, `V` vocabulary, `H`
hidden size, `F` inner size of the MLP, `K` width of the keys, `A` attention heads.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from moss.config.model import ModelConfig
from moss.config.optimization import ParallelConfig

Precision: TypeAlias = Literal["fp32", "bf16"]
FP32_BYTES: Final = 4
_ADAM_BYTES: Final = 8
"""Two fp32 moments."""
_BUCKET_SIZE: Final = 500_000_000
"""Elements of the buckets in which DeepSpeed reduces gradients (`reduce_bucket_size`)."""
_GATHERED_SIZE: Final = 1_050_000_000
"""Most elements that ZeRO-3 gathers ahead of their use (`stage3_max_live_parameters` and
`stage3_prefetch_bucket_size`)."""
_STEP_SIZE: Final = 1_000_000_000
"""Most elements that ZeRO-3 updates at once (`sub_group_size`)."""
_LOGITS_TRAINING: Final = 4
"""Softmax output, its gradient, and the gradients of gather and temperature."""
_LOGITS_FORWARD: Final = 3
"""Logits, logits over temperature, softmax output."""
_LOGITS_SAMPLING: Final = 6
"""Logits and logprobs in fp32, probabilities and their sums in fp64."""


def training_state_bytes(num_parameters: int, parallel: ParallelConfig) -> dict[str, int]:
    """Bytes one worker holds of `weights`, `gradients` and (AdamW) `optimizer` state.

    fp32 without ZeRO trains the weights themselves: 4 + 4 + 8 bytes per parameter. In bf16 weights
    and gradients have 2 bytes and the optimizer a master copy in fp32; ZeRO copies its shard of the
    weights too. Stage 1 shards the optimizer state over the data-parallel workers, 2 also
    gradients, 3 also weights.
    """
    width = element_bytes(parallel.precision)
    has_master = parallel.precision == "bf16" or parallel.zero_stage > 0
    per_parameter = {
        "weights": (width, 3),
        "gradients": (width, 2),
        "optimizer": (_ADAM_BYTES + FP32_BYTES * has_master, 1),
    }
    return {
        part: -(-num_parameters * num_bytes // _num_shards(parallel, from_stage))
        for part, (num_bytes, from_stage) in per_parameter.items()
    }


def sharding_bytes(num_parameters: int, parallel: ParallelConfig) -> int:
    """What ZeRO holds besides its shards: a bucket of gradients, which it takes whole on a GPU; in
    stage 3 also the weights gathered from the other workers."""
    if parallel.zero_stage == 0:
        return 0
    bucket = _BUCKET_SIZE if parallel.device == "cuda" else min(num_parameters, _BUCKET_SIZE)
    gathered = min(num_parameters, _GATHERED_SIZE) if parallel.zero_stage == 3 else 0
    return (bucket + gathered) * element_bytes(parallel.precision)


def step_bytes(num_parameters: int, parallel: ParallelConfig) -> int:
    """What an optimizer step holds besides, when no activation is left: unsharded, the flat copy of
    a bucket of gradients, which DeepSpeed makes with a single worker too; sharded, the gradients of
    the shard in fp32."""
    if parallel.zero_stage == 0:
        return min(num_parameters, _BUCKET_SIZE) * element_bytes(parallel.precision)
    shard = -(-num_parameters // parallel.num_data_workers)
    return FP32_BYTES * (min(shard, _STEP_SIZE) if parallel.zero_stage == 3 else shard)


def loading_bytes(num_parameters: int, parallel: ParallelConfig) -> int:
    """What a worker holds while it starts: the whole model and, as that is cut, its own shard."""
    whole = num_parameters * element_bytes(parallel.precision)
    return whole + (whole // parallel.num_data_workers if parallel.zero_stage == 3 else 0)


def kept_per_block(model: ModelConfig, num_tokens: int, precision: Precision) -> int:
    """Elements per token that one block keeps for its backward pass, in sequences of T tokens.

    llama, 8H + 2K + 4F: input, scaled and weighted output of two norms, queries and attention
    output; keys and values; gate, its SiLU, up projection and their product. Attention scores are
    not kept: the kernel computes them again (Dao et al. 2022, sec. 3.1). In bf16 2H more: the norms
    compute in fp32, twice as wide.

    codegen, 6H + 5F + AT: input and output of the norm, queries, keys, values, attention output;
    four steps of the GELU and its product; Transformers keeps the attention probabilities. In bf16
    2H + 2AT more: queries, keys and probabilities are in fp32, and rounded besides.
    """
    hidden, inner = model.hidden_size, model.intermediate_size
    widened = precision == "bf16"
    if model.architecture == "llama":
        return (8 + 2 * widened) * hidden + 2 * model.kv_size + 4 * inner
    scores = model.num_heads * num_tokens
    return (6 + 2 * widened) * hidden + 5 * inner + (1 + 2 * widened) * scores


def training_activation_bytes(
    model: ModelConfig, *, num_rows: int, num_tokens: int, parallel: ParallelConfig
) -> int:
    """Most that one forward and backward pass of (B, T) holds besides logits.

    All blocks' activations, those around them (5H, and the last norm's H in bf16), and one block's
    gradients: twice its widest tensor, F or codegen's AT. With gradient checkpointing each block
    keeps only its input and one block at a time is computed again.
    """
    per_block = kept_per_block(model, num_tokens, parallel.precision)
    kept = model.num_layers * per_block
    if parallel.gradient_checkpointing:
        kept = model.num_layers * model.hidden_size + per_block
    scores = model.num_heads * num_tokens if model.architecture == "codegen" else 0
    around = 5 + (parallel.precision == "bf16")
    per_token = kept + around * model.hidden_size + 2 * max(model.intermediate_size, scores)
    return num_rows * num_tokens * per_token * element_bytes(parallel.precision)


def forward_activation_bytes(
    model: ModelConfig, *, num_rows: int, num_tokens: int, precision: Precision
) -> int:
    """Most that one block holds at once in a pass of (B, T) without gradients."""
    hidden, inner = model.hidden_size, model.intermediate_size
    if model.architecture == "llama":
        per_token = (4 + (precision == "bf16")) * hidden + 3 * inner
    else:
        # The causal mask (T); attention probabilities, of which a block also returns one copy.
        probabilities, mask = model.num_heads * num_tokens, num_tokens
        in_mlp = 5 * hidden + 4 * inner + 2 * probabilities
        in_attention = 14 * hidden + 3 * probabilities
        if precision == "bf16":  # queries, keys and probabilities are in fp32
            in_attention += 4 * hidden + 3 * probabilities
        per_token = max(in_mlp, in_attention) + mask
    return num_rows * num_tokens * per_token * element_bytes(precision)


def training_logit_bytes(num_predicted: int, vocab_size: int, hidden_size: int) -> int:
    """fp32 logits (N, V) and their gradients, and the LM head's gradient (V, H) before it is added
    to that of earlier micro-batches."""
    head = vocab_size * hidden_size
    return FP32_BYTES * (_LOGITS_TRAINING * num_predicted * vocab_size + head)


def forward_logit_bytes(num_predicted: int, vocab_size: int) -> int:
    """fp32 logits (N, V) on their way to logprobs, without gradients."""
    return FP32_BYTES * _LOGITS_FORWARD * num_predicted * vocab_size


def sampling_logit_bytes(num_sequences: int, vocab_size: int) -> int:
    """Next-token logits (B, V) of sequences decoded at once, on their way to a drawn token."""
    return FP32_BYTES * _LOGITS_SAMPLING * num_sequences * vocab_size


def kv_bytes_per_token(model: ModelConfig) -> int:
    """Bytes of fp32 keys and values of one token in all layers."""
    return 2 * model.num_layers * model.kv_size * FP32_BYTES


def _num_shards(parallel: ParallelConfig, from_stage: int) -> int:
    return parallel.num_data_workers if parallel.zero_stage >= from_stage else 1


def element_bytes(precision: Precision) -> int:
    """Bytes of a weight or an activation."""
    return FP32_BYTES if precision == "fp32" else 2
