"""Sampling responses: the Sampler protocol, and a sampler over a Transformers model.

Token ids in, token ids and logprobs out. A logprob is that of the distribution the token was drawn
from: softmax at the sampling temperature, renormalised over the nucleus when `top_p` < 1; greedy
decoding reports softmax at temperature 1. `moss.sampling_vllm` is the other implementation.

Shapes: `B` responses still open, `P` prompt tokens (left padding), `V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, PreTrainedModel

from moss.config.ppo import SamplingParams
from moss.errors import DataError
from moss.rollouts import Rollout, SampleRequest
from moss.weight_checks import check_fit, check_newer, check_probe
from moss.weight_files import WeightFile, read_weights

NO_WEIGHTS: Final = -1
"""Version of a sampler that holds no weights known to be right."""


class Sampler(Protocol):
    """Draws responses from a policy whose weights can be replaced."""

    @property
    def policy_version(self) -> int:
        """Version of the weights that sample now."""
        ...

    def generate(
        self, requests: Sequence[SampleRequest], params: SamplingParams, stop_ids: Sequence[int]
    ) -> list[Rollout]:
        """One response per request, in order. A response ends with the first of `stop_ids`, which
        it holds, or at its request's `max_new_tokens` (those of `params` where it names none).

        Raises:
            DataError: an empty prompt, or one that leaves no room in the model's positions.
        """
        ...

    def push_weights(self, file: WeightFile) -> None:
        """Replace the weights; returns once they sample.

        Weights that turn out wrong while they are loaded leave the sampler at `NO_WEIGHTS`.

        Raises:
            WeightSyncError: wrong digest, a version that is not newer, or tensors that do not fit.
        """
        ...

    def close(self) -> None:
        """Free the model."""
        ...


class StreamingSampler(Sampler, Protocol):
    """A sampler that hands out each response when it ends."""

    def stream(
        self, requests: Sequence[SampleRequest], params: SamplingParams, stop_ids: Sequence[int]
    ) -> Iterator[tuple[int, Rollout]]:
        """What `generate` does, as each request's row and response, in the order in which they end:
        weights and requests determine it."""
        ...


class TransformersSampler:
    """Batched decoding with a key/value cache over any Transformers causal LM.

    Finished responses leave the batch. Randomness is one uniform number per token from a generator
    seeded per request, mapped through the inverse of the cumulative distribution, so a response
    does not depend on what it is batched with (beyond rounding).
    """

    def __init__(self, model: PreTrainedModel, *, pad_id: int, policy_version: int = 0) -> None:
        self._model = model.eval()
        self._pad_id = pad_id
        self._version = policy_version
        self._device = model.device
        self._max_positions = int(model.config.max_position_embeddings)

    @property
    def policy_version(self) -> int:
        """Version of the weights that sample now."""
        return self._version

    def generate(
        self, requests: Sequence[SampleRequest], params: SamplingParams, stop_ids: Sequence[int]
    ) -> list[Rollout]:
        """See `Sampler.generate`."""
        return in_order(self.stream(requests, params, stop_ids))

    @torch.inference_mode()
    def stream(
        self, requests: Sequence[SampleRequest], params: SamplingParams, stop_ids: Sequence[int]
    ) -> Iterator[tuple[int, Rollout]]:
        """See `StreamingSampler.stream`."""
        check_requests(requests, params, max_positions=self._max_positions)
        if not requests:
            return
        decoding = _Decoding(self._model, requests, params, pad_id=self._pad_id)
        limits = [token_limit(request, params) for request in requests]
        responses: list[list[int]] = [[] for _ in requests]
        logprobs: list[list[float]] = [[] for _ in requests]
        stops = frozenset(stop_ids)
        for step in range(max(limits)):
            tokens, token_logprobs = decoding.draw(step)
            open_rows: list[int] = []
            pairs = zip(tokens.tolist(), token_logprobs.tolist(), strict=True)
            for position, (token, logprob) in enumerate(pairs):
                row = decoding.rows[position]
                responses[row].append(token)
                logprobs[row].append(logprob)
                if token not in stops and step + 1 < limits[row]:
                    open_rows.append(position)
                    continue
                yield (
                    row,
                    Rollout(
                        prompt_ids=list(requests[row].prompt_ids),
                        response_ids=responses[row],
                        logprobs=logprobs[row],
                        policy_version=self._version,
                        finish_reason="stop" if token in stops else "length",
                    ),
                )
            if not open_rows:
                return
            decoding.advance(tokens, open_rows)

    def push_weights(self, file: WeightFile) -> None:
        """See `Sampler.push_weights`."""
        check_newer(file, current=self._version)
        weights = read_weights(file)
        tied = set(self._model.all_tied_weights_keys)
        held = {k: tuple(v.shape) for k, v in self._model.state_dict().items() if k not in tied}
        check_fit(weights, held, version=file.version)
        self._version = NO_WEIGHTS
        self._model.load_state_dict(weights, strict=False)  # tied names are absent
        check_probe(self, file)
        self._version = file.version

    def sleep(self, level: int) -> None:  # noqa: ARG002  the weights stay, whatever the level
        """Move the weights to the node's memory."""
        self._device = self._model.device
        self._model.to("cpu")
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def wake_up(self) -> None:
        """Move the weights back."""
        self._model.to(self._device)

    def close(self) -> None:
        """Nothing is held beyond the model."""


class _Decoding:
    """State of one batch: cache, last logits, open rows."""

    def __init__(
        self,
        model: PreTrainedModel,
        requests: Sequence[SampleRequest],
        params: SamplingParams,
        *,
        pad_id: int,
    ) -> None:
        self._model, self._params = model, params
        self.rows = list(range(len(requests)))
        """Request behind each row of the batch."""
        self._uniforms = pad_sequence(
            [request_uniforms(r.seed, token_limit(r, params)) for r in requests], batch_first=True
        )
        device = model.device
        width = max(len(request.prompt_ids) for request in requests)
        ids = torch.full((len(requests), width), pad_id)
        self._mask_BP = torch.zeros(len(requests), width, dtype=torch.bool)
        for row, request in enumerate(requests):
            start = width - len(request.prompt_ids)
            ids[row, start:] = torch.tensor(request.prompt_ids)
            self._mask_BP[row, start:] = True
        self._mask_BP = self._mask_BP.to(device)
        self._cache = DynamicCache(config=model.config)
        positions = (self._mask_BP.cumsum(1) - 1).clamp(min=0)
        self._next_positions = positions[:, -1:] + 1
        self._logits_BV = self._forward(ids.to(device), positions)

    def draw(self, step: int) -> tuple[Tensor, Tensor]:
        """Next token and its logprob for each open row."""
        uniforms_B = self._uniforms[self.rows, step].to(self._logits_BV.device)
        return draw_tokens(self._logits_BV, self._params, uniforms_B)

    def advance(self, tokens_B: Tensor, keep: list[int]) -> None:
        """Feed the drawn tokens of the rows at `keep`; the others leave the batch."""
        if len(keep) < len(self.rows):
            index = torch.tensor(keep, device=tokens_B.device)
            self.rows = [self.rows[position] for position in keep]
            self._cache.batch_select_indices(index)
            self._mask_BP, tokens_B = self._mask_BP[index], tokens_B[index]
            self._next_positions = self._next_positions[index]
        self._mask_BP = torch.cat([self._mask_BP, self._mask_BP.new_ones(len(self.rows), 1)], 1)
        self._logits_BV = self._forward(tokens_B[:, None], self._next_positions)
        self._next_positions = self._next_positions + 1

    def _forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        output = self._model(
            input_ids=ids,
            attention_mask=_attention_mask(self._mask_BP, num_queries=ids.shape[1]),
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits[:, -1].float()
        return logits


def in_order(ended: Iterable[tuple[int, Rollout]]) -> list[Rollout]:
    """Responses that ended in any order, by their rows."""
    responses = dict(ended)
    return [responses[row] for row in range(len(responses))]


def draw_tokens(
    logits_BV: Tensor, params: SamplingParams, uniforms_B: Tensor
) -> tuple[Tensor, Tensor]:
    """Tokens (B,) and their logprobs (B,) from next-token logits and one uniform number in [0, 1)
    per row; the uniform numbers are not read at temperature 0."""
    if params.temperature == 0:
        tokens = logits_BV.argmax(-1)
        logprobs_BV = torch.log_softmax(logits_BV, -1)
        return tokens, logprobs_BV.gather(-1, tokens[:, None])[:, 0]
    logprobs_BV = torch.log_softmax(logits_BV / params.temperature, -1)
    if params.top_p < 1:
        logprobs_BV = _nucleus(logprobs_BV, params.top_p)
    cumulative_BV = logprobs_BV.double().exp().cumsum(-1)
    targets_B = uniforms_B.double() * cumulative_BV[:, -1]
    tokens = torch.searchsorted(cumulative_BV, targets_B[:, None], right=True)[:, 0]
    tokens = tokens.clamp(max=logits_BV.shape[1] - 1)
    return tokens, logprobs_BV.gather(-1, tokens[:, None])[:, 0]


def check_requests(
    requests: Sequence[SampleRequest], params: SamplingParams, *, max_positions: int
) -> None:
    """Raise DataError for an empty prompt or one that leaves no room for the response."""
    for row, request in enumerate(requests):
        limit = token_limit(request, params)
        room = max_positions - len(request.prompt_ids)
        if not request.prompt_ids or room < limit:
            raise DataError(
                f"prompt {row} has {len(request.prompt_ids)} tokens; with max_new_tokens={limit} "
                f"it must have 1 to {max_positions - limit} (the model has {max_positions} "
                "positions)"
            )


def token_limit(request: SampleRequest, params: SamplingParams) -> int:
    """Most tokens of a request's response."""
    return params.max_new_tokens if request.max_new_tokens is None else request.max_new_tokens


def _nucleus(logprobs_BV: Tensor, top_p: float) -> Tensor:
    ordered, order = logprobs_BV.sort(-1, descending=True)
    before = ordered.exp().cumsum(-1) - ordered.exp()
    dropped = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= top_p)
    return torch.log_softmax(logprobs_BV.masked_fill(dropped, -torch.inf), -1)


def request_uniforms(seed: int, count: int) -> Tensor:
    """(count,) the numbers in [0, 1), fp64, that draw the tokens of a request."""
    return torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _attention_mask(mask_BP: Tensor, *, num_queries: int) -> Tensor:
    """(B, 1, queries, keys) boolean mask: the last `num_queries` tokens see real tokens up to
    themselves; padding sees itself, for a softmax over nothing is NaN."""
    width = mask_BP.shape[1]
    keys = torch.arange(width, device=mask_BP.device)
    queries = keys[width - num_queries :, None]
    visible = mask_BP[:, None, None, :] & (keys <= queries)
    return visible | (keys == queries)
