"""Llama decoding with nothing but its arithmetic: what any sampler pays per token on this machine.

Shapes: `B` responses in the batch, `Q` new tokens of each, `K` cached tokens, `H` hidden size, `V`
vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import rms_norm, scaled_dot_product_attention, silu
from transformers import PreTrainedModel

from moss.config.ppo import SamplingParams
from moss.rollouts import Rollout, SampleRequest
from moss.sampling import draw_tokens, request_uniforms

_ENDED_SHARE: Final = 0.25
"""Ended rows leave the batch when they make up this share; leaving copies the cache."""


@dataclass(slots=True)
class _Batch:
    """Responses being decoded."""

    rows: Tensor
    """(B,) request behind each row."""
    cache: Tensor
    """(blocks, 2, B, heads, K, head size) keys and values."""
    real_BK: Tensor
    """False on left padding."""
    positions_B: Tensor
    """Of the last token."""
    ended_B: Tensor

    def drop_ended(self) -> None:
        """Keep the rows that have not ended."""
        kept = (~self.ended_B).nonzero()[:, 0]
        self.rows, self.cache, self.real_BK = (
            self.rows[kept],
            self.cache[:, :, kept],
            self.real_BK[kept],
        )
        self.positions_B, self.ended_B = self.positions_B[kept], self.ended_B[kept]


class LeanDecoder:
    """Fused matrices, one block of memory as cache, no modules."""

    def __init__(self, model: PreTrainedModel) -> None:
        config = model.config
        self._num_heads, self._head_size = config.num_attention_heads, config.head_dim
        self._eps = config.rms_norm_eps
        exponents = torch.arange(0, self._head_size, 2) / self._head_size
        self._frequencies = config.rope_parameters["rope_theta"] ** -exponents
        self.take_weights(model)

    @torch.no_grad()
    def take_weights(self, model: PreTrainedModel) -> None:
        """Copy the weights of a model, those with one input side by side."""
        body = model.base_model
        self._embedding = body.embed_tokens.weight.clone()
        self._last_norm = body.norm.weight.clone()
        self._blocks = [
            (
                block.input_layernorm.weight.clone(),
                torch.cat([getattr(block.self_attn, f"{name}_proj").weight for name in "qkv"]),
                block.self_attn.o_proj.weight.clone(),
                block.post_attention_layernorm.weight.clone(),
                torch.cat([block.mlp.gate_proj.weight, block.mlp.up_proj.weight]),
                block.mlp.down_proj.weight.clone(),
            )
            for block in body.layers
        ]

    @torch.inference_mode()
    def generate(
        self, requests: Sequence[SampleRequest], params: SamplingParams, stop_ids: Sequence[int]
    ) -> list[Rollout]:
        """The responses of `moss.sampling.TransformersSampler`, up to rounding."""
        count, longest = len(requests), params.max_new_tokens
        uniforms = torch.stack([request_uniforms(request.seed, longest) for request in requests])
        stops = torch.tensor(list(stop_ids))
        tokens, logprobs = (
            torch.zeros(count, longest, dtype=torch.long),
            torch.zeros(count, longest),
        )
        batch, logits_BV = self._start(requests, longest)
        width = batch.real_BK.shape[1] - longest
        for step in range(longest):
            drawn_B, drawn_logprobs_B = draw_tokens(logits_BV, params, uniforms[batch.rows, step])
            tokens[batch.rows, step], logprobs[batch.rows, step] = drawn_B, drawn_logprobs_B
            batch.ended_B |= torch.isin(drawn_B, stops)
            num_ended = int(batch.ended_B.sum())
            if num_ended == len(batch.rows) or step + 1 == longest:
                break
            if num_ended >= _ENDED_SHARE * len(batch.rows):
                drawn_B = drawn_B[~batch.ended_B]
                batch.drop_ended()
            batch.positions_B = batch.positions_B + 1
            end = width + step
            visible = batch.real_BK[:, None, None, : end + 1]
            logits_BV = self._forward(
                drawn_B[:, None], batch.positions_B[:, None], batch, end, visible
            )
        return [
            _cut(request, row_tokens, row_logprobs, frozenset(stop_ids))
            for request, row_tokens, row_logprobs in zip(
                requests, tokens.tolist(), logprobs.tolist(), strict=True
            )
        ]

    def _start(self, requests: Sequence[SampleRequest], longest: int) -> tuple[_Batch, Tensor]:
        """Prompts into the cache; logits (B, V) of the first tokens."""
        count, width = len(requests), max(len(request.prompt_ids) for request in requests)
        ids = torch.zeros(count, width, dtype=torch.long)
        real = torch.ones(count, width + longest, dtype=torch.bool)
        for row, request in enumerate(requests):
            start = width - len(request.prompt_ids)
            ids[row, start:], real[row, :start] = torch.tensor(request.prompt_ids), False
        positions = (real[:, :width].cumsum(1) - 1).clamp(min=0)
        shape = (len(self._blocks), 2, count, self._num_heads, width + longest, self._head_size)
        batch = _Batch(
            rows=torch.arange(count),
            cache=torch.empty(shape),
            real_BK=real,
            positions_B=positions[:, -1],
            ended_B=torch.zeros(count, dtype=torch.bool),
        )
        key = torch.arange(width)
        # Padding sees itself: a softmax over nothing is NaN.
        visible = real[:, None, None, :width] & (key <= key[:, None]) | (key == key[:, None])
        return batch, self._forward(ids, positions, batch, 0, visible)

    def _forward(
        self, ids_BQ: Tensor, positions_BQ: Tensor, batch: _Batch, start: int, visible: Tensor
    ) -> Tensor:
        """Logits (B, V) after the last of the tokens that stand at `start` in the cache."""
        count, width = ids_BQ.shape
        end = start + width
        angles = positions_BQ[..., None] * self._frequencies
        angles = torch.cat([angles, angles], -1)[:, None]
        cos, sin = angles.cos(), angles.sin()
        size = self._head_size // 2

        def rotate(x: Tensor) -> Tensor:
            return x * cos + torch.cat([-x[..., size:], x[..., :size]], -1) * sin

        hidden = self._embedding[ids_BQ]
        for (norm, qkv, out, mlp_norm, gate_up, down), cache in zip(
            self._blocks, batch.cache, strict=True
        ):
            x = rms_norm(hidden, norm.shape, norm, self._eps) @ qkv.T
            query, key, value = x.view(count, width, 3, self._num_heads, -1).permute(2, 0, 3, 1, 4)
            cache[0, :, :, start:end], cache[1, :, :, start:end] = rotate(key), value
            seen = scaled_dot_product_attention(
                rotate(query), cache[0, :, :, :end], cache[1, :, :, :end], attn_mask=visible
            )
            hidden = hidden + seen.transpose(1, 2).reshape(count, width, -1) @ out.T
            gate, up = (rms_norm(hidden, norm.shape, mlp_norm, self._eps) @ gate_up.T).chunk(2, -1)
            hidden = hidden + (silu(gate) * up) @ down.T
        last = rms_norm(hidden[:, -1], self._last_norm.shape, self._last_norm, self._eps)
        logits_BV: Tensor = last @ self._embedding.T
        return logits_BV


def _cut(
    request: SampleRequest, tokens: list[int], logprobs: list[float], stops: frozenset[int]
) -> Rollout:
    """A response up to its first stop token."""
    length = next((n for n, token in enumerate(tokens, 1) if token in stops), len(tokens))
    return Rollout(
        prompt_ids=list(request.prompt_ids),
        response_ids=tokens[:length],
        logprobs=logprobs[:length],
        policy_version=0,
        finish_reason="stop" if tokens[length - 1] in stops else "length",
    )
