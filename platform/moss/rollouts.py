"""Rollouts and what PPO learns from them: data that crosses processes, numpy only.

Shapes: `B` rollouts, `T` tokens. A row is prompt, response, right padding: no left padding, so a
row's own tokens always start at 0 and a group of short rows can be cut to its longest. Every (B, T)
array is aligned with the token it speaks of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal, Self

import numpy as np
import numpy.typing as npt

from moss.errors import DataError
from moss.types import Section, ToolName

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Opening:
    """How a turn begins whose tools run while it is written."""

    section: Section
    """The prompt ends with its header."""
    tools: frozenset[ToolName]
    """Those that are switched on."""


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """One response to sample."""

    prompt_ids: list[int]
    seed: int
    """The response depends on weights, prompt and this, not on what else is in the batch."""
    max_new_tokens: int | None = None
    """Limit of this response, where it is not that of all."""
    opening: Opening | None = None
    """None for a response that is a reply alone."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """One response sampled from one prompt."""

    prompt_ids: list[int]
    response_ids: list[int]
    """Sampled tokens, the stop token included."""
    logprobs: list[float]
    """Natural-log probability of each response token under the distribution it was drawn from."""
    policy_version: int
    """Version of the weights that sampled this; staleness is measured from it."""
    finish_reason: FinishReason
    """`stop`: ended with a stop token; `length`: cut at the limit."""
    inserted: list[tuple[int, int]] = field(default_factory=list)
    """Ranges of `response_ids`, start to before the end, that the policy did not write: headers and
    tool results. They carry no loss, and their logprobs are 0."""
    num_calls: int = 0
    """Tool calls that ran or should have."""
    num_failed_calls: int = 0
    """Those that the policy was told had no result."""


@dataclass(frozen=True, slots=True)
class RolloutBatch:
    """Rollouts padded into one block."""

    tokens_BT: Ints
    mask_BT: Bools
    """True on tokens that the policy sampled: the response, less what tools inserted into it."""
    lengths_B: Ints
    """Prompt and response tokens of each row."""
    rollout_logprobs_BT: Floats
    """Logprobs reported by the rollout engine; 0 where masked."""
    finished_B: Bools
    """True where the response ended by itself."""
    policy_versions_B: Ints

    @classmethod
    def from_rollouts(cls, rollouts: Sequence[Rollout], *, pad_id: int) -> Self:
        """Pad rollouts to their longest.

        Raises:
            DataError: no rollouts, an empty prompt or response, or unequal ids and logprobs.
        """
        if not rollouts:
            raise DataError("a rollout batch needs at least one rollout")
        for row, rollout in enumerate(rollouts):
            _check_rollout(row, rollout)
        rows = [rollout.prompt_ids + rollout.response_ids for rollout in rollouts]
        shape = (len(rows), max(len(row) for row in rows))
        tokens, logprobs = np.full(shape, pad_id, np.int64), np.zeros(shape, np.float32)
        mask = np.zeros(shape, np.bool_)
        for i, rollout in enumerate(rollouts):
            start, end = len(rollout.prompt_ids), len(rows[i])
            tokens[i, :end], mask[i, start:end] = rows[i], True
            logprobs[i, start:end] = rollout.logprobs
            for begin, after in rollout.inserted:
                mask[i, start + begin : start + after] = False
                logprobs[i, start + begin : start + after] = 0.0
        return cls(
            tokens_BT=tokens,
            mask_BT=mask,
            lengths_B=np.array([len(row) for row in rows], np.int64),
            rollout_logprobs_BT=logprobs,
            finished_B=np.array([r.finish_reason == "stop" for r in rollouts], np.bool_),
            policy_versions_B=np.array([r.policy_version for r in rollouts], np.int64),
        )

    def save(self, file: Path) -> None:
        """Write all arrays to one file."""
        np.savez(file, **{field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read what `save` wrote."""
        with np.load(file) as arrays:
            return cls(**{field.name: arrays[field.name] for field in fields(cls)})

    @property
    def num_rollouts(self) -> int:
        """Rows."""
        return len(self.lengths_B)

    @property
    def num_response_tokens(self) -> int:
        """Response tokens of all rows that the policy sampled."""
        return int(self.mask_BT.sum())

    def rows(self, indices: Sequence[int] | Ints) -> RolloutBatch:
        """The rows at `indices`, cut to their longest."""
        picked = np.asarray(indices)
        width = int(self.lengths_B[picked].max())
        return RolloutBatch(
            tokens_BT=self.tokens_BT[picked, :width],
            mask_BT=self.mask_BT[picked, :width],
            lengths_B=self.lengths_B[picked],
            rollout_logprobs_BT=self.rollout_logprobs_BT[picked, :width],
            finished_B=self.finished_B[picked],
            policy_versions_B=self.policy_versions_B[picked],
        )


@dataclass(frozen=True, slots=True)
class CriticTargets:
    """What the critic learns from."""

    values_BT: Floats
    """Its value before each token, when the batch was scored."""
    returns_BT: Floats

    def rows(self, picked: Ints, *, width: int) -> CriticTargets:
        """The rows at `picked`, cut to `width` tokens."""
        return CriticTargets(self.values_BT[picked, :width], self.returns_BT[picked, :width])


@dataclass(frozen=True, slots=True)
class Experience:
    """A rollout batch with all that one PPO update reads."""

    rollouts: RolloutBatch
    logprobs_BT: Floats
    """Under the weights that start the update, at sampling temperature."""
    reference_logprobs_BT: Floats
    advantages_BT: Floats
    critic: CriticTargets | None
    """None where the estimator has no critic."""
    kl_loss_coefficient: float
    """Weight of the KL term of the policy's loss; 0 where the KL stands in the reward."""

    def rows(self, indices: Sequence[int] | Ints) -> Experience:
        """The rows at `indices`, cut to their longest."""
        rollouts = self.rollouts.rows(indices)
        width = rollouts.tokens_BT.shape[1]
        picked = np.asarray(indices)
        return Experience(
            rollouts=rollouts,
            logprobs_BT=self.logprobs_BT[picked, :width],
            reference_logprobs_BT=self.reference_logprobs_BT[picked, :width],
            advantages_BT=self.advantages_BT[picked, :width],
            critic=None if self.critic is None else self.critic.rows(picked, width=width),
            kl_loss_coefficient=self.kl_loss_coefficient,
        )


def length_sorted_groups(lengths_B: Ints, *, max_rows: int) -> list[Ints]:
    """Row indices in the fewest groups of at most `max_rows` and nearly equal size, short rows
    together.

    Padding then costs about a third less arithmetic than mixed groups. Rows of equal length keep
    their order.
    """
    order = np.argsort(lengths_B, kind="stable").astype(np.int64)
    return np.array_split(order, -(-len(order) // max_rows))


def join_rows(parts: Sequence[Floats], rows_B: Ints, width: int) -> Floats:
    """(B, T) of the rows of several parts, each no wider than `width`, with 0 beyond it.

    Args:
        rows_B: where each row of the parts, one after the other, belongs.
    """
    whole = np.zeros((len(rows_B), width), np.float32)
    start = 0
    for part in parts:
        whole[rows_B[start : start + len(part)], : part.shape[1]] = part
        start += len(part)
    return whole


def _check_rollout(row: int, rollout: Rollout) -> None:
    prompt, response = len(rollout.prompt_ids), len(rollout.response_ids)
    if not prompt or not response or response != len(rollout.logprobs):
        raise DataError(
            f"rollout {row} has {prompt} prompt tokens, {response} response tokens and "
            f"{len(rollout.logprobs)} logprobs; expected at least one of each and as many logprobs "
            "as response tokens"
        )
    sampled = response - sum(after - begin for begin, after in rollout.inserted)
    ends_inserted = any(after >= response for _, after in rollout.inserted)
    if ends_inserted or not sampled:
        raise DataError(
            f"rollout {row} ends with tokens that the policy did not sample "
            f"({rollout.inserted} of {response}); its reward would have no token to stand on"
        )
