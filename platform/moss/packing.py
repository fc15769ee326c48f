"""Token sequences on disk and how a batch of them is cut into micro-batches.

`TokenSequences` holds examples of any length; `TokenWindows` cuts a stream of documents into
equal windows. A window may span documents, which are separated by the end-of-sequence token, and
attention crosses that border: the usual way to pack documents. Chat sequences are never joined,
only padded, so nothing leaks from one to another.

Shapes: `S` sequences, `N` tokens of all of them, `B` rows, `T` padded length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from moss.errors import DataError

Ints = npt.NDArray[np.int64]

MICRO_BATCH_COST_TOKENS = 100
"""What a forward and backward pass costs beside its tokens, in tokens; measured at `tiny`, where it
is the largest share."""


class SequenceSource(Protocol):
    """Indexed token sequences."""

    @property
    def lengths(self) -> Ints:
        """(S,) tokens of each sequence."""
        ...

    @property
    def target_counts(self) -> Ints:
        """(S,) loss-carrying tokens of each sequence."""
        ...

    def sequence(self, index: int) -> tuple[Ints, Ints]:
        """Ids and loss mask, both (length,)."""
        ...


@dataclass(frozen=True)
class TokenSequences:
    """Sequences laid end to end."""

    ids: npt.NDArray[np.int32]
    """(N,) token ids."""
    loss_mask: npt.NDArray[np.uint8]
    """(N,) 1 on targets."""
    offsets: Ints
    """(S + 1,) start of each sequence, and N."""

    @classmethod
    def from_lists(
        cls, ids: Sequence[Sequence[int]], loss_masks: Sequence[Sequence[int]]
    ) -> TokenSequences:
        """Lay lists end to end.

        Raises:
            DataError: no sequence, or one whose ids and mask differ in length.
        """
        if not ids:
            raise DataError("there is no sequence to train on; check the inputs and their filters")
        for index, (row, mask) in enumerate(zip(ids, loss_masks, strict=True)):
            if len(row) != len(mask):
                raise DataError(f"sequence {index} has {len(row)} ids and {len(mask)} mask values")
        offsets = np.zeros(len(ids) + 1, np.int64)
        np.cumsum([len(row) for row in ids], out=offsets[1:])
        return cls(
            np.concatenate([np.asarray(row, np.int32) for row in ids]),
            np.concatenate([np.asarray(mask, np.uint8) for mask in loss_masks]),
            offsets,
        )

    @property
    def lengths(self) -> Ints:
        """(S,) tokens of each sequence."""
        return np.diff(self.offsets)

    @property
    def target_counts(self) -> Ints:
        """(S,) masked tokens that have a token before them."""
        mask = self.loss_mask.astype(np.int64)
        mask[self.offsets[:-1]] = 0
        sums = np.concatenate([[0], np.cumsum(mask)])
        return np.asarray(sums[self.offsets[1:]] - sums[self.offsets[:-1]], np.int64)

    def sequence(self, index: int) -> tuple[Ints, Ints]:
        """Ids and loss mask, both (length,)."""
        part = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        return self.ids[part].astype(np.int64), self.loss_mask[part].astype(np.int64)

    def save(self, file: str | Path) -> None:
        """Write one `.npz` file."""
        np.savez(file, ids=self.ids, loss_mask=self.loss_mask, offsets=self.offsets)

    @classmethod
    def load(cls, file: str | Path) -> TokenSequences:
        """Read what `save` wrote."""
        with np.load(file) as arrays:
            return cls(arrays["ids"], arrays["loss_mask"], arrays["offsets"])


@dataclass(frozen=True)
class TokenWindows:
    """Equal windows of a token stream; every token but the first is a target exactly once."""

    stream: npt.NDArray[np.generic]
    """(N,) token ids, typically memory-mapped."""
    window: int
    """Tokens per window; neighbours share one, the first one's last target."""

    @classmethod
    def load(cls, file: str | Path, *, window: int) -> TokenWindows:
        """Memory-map a `.npy` stream.

        Raises:
            DataError: the stream is shorter than one window.
        """
        stream = np.load(file, mmap_mode="r")
        if len(stream) < window:
            raise DataError(f"{file} holds {len(stream)} tokens, one window needs {window}")
        return cls(stream, window)

    @property
    def lengths(self) -> Ints:
        """(S,) all equal to `window`."""
        return np.full((len(self.stream) - 1) // (self.window - 1), self.window, np.int64)

    @property
    def target_counts(self) -> Ints:
        """(S,) all equal to `window - 1`."""
        return self.lengths - 1

    def sequence(self, index: int) -> tuple[Ints, Ints]:
        """Ids and loss mask, both (window,)."""
        start = index * (self.window - 1)
        ids = np.asarray(self.stream[start : start + self.window], np.int64)
        return ids, np.ones(self.window, np.int64)


def pad_right(rows: Sequence[Sequence[int] | Ints], pad_id: int) -> tuple[Tensor, Tensor]:
    """Ids (B, T) padded on the right, and the mask (B, T) of real tokens, both int64."""
    width = max(len(row) for row in rows)
    ids_BT = torch.full((len(rows), width), pad_id, dtype=torch.int64)
    mask_BT = torch.zeros((len(rows), width), dtype=torch.int64)
    for index, row in enumerate(rows):
        ids_BT[index, : len(row)] = torch.as_tensor(row, dtype=torch.int64)
        mask_BT[index, : len(row)] = 1
    return ids_BT, mask_BT


def batch_items(step: int, *, batch_size: int, num_items: int, seed: int) -> list[int]:
    """Items of batch `step`: each epoch is a permutation drawn from (seed, epoch).

    A pure function of the step, so resuming needs no other data position.
    """
    first = step * batch_size
    items: list[int] = []
    while len(items) < batch_size:
        epoch, start = divmod(first + len(items), num_items)
        order = np.random.default_rng([seed, epoch]).permutation(num_items)
        items.extend(int(i) for i in order[start : start + batch_size - len(items)])
    return items


def plan_micro_batches(
    lengths: Sequence[int], *, num_workers: int, token_budget: int
) -> list[list[list[int]]]:
    """Cut one batch into micro-batches of similar lengths, equally many for every worker.

    Large micro-batches cost few passes, small ones little padding and even work: of the budget, its
    half, its quarter and so on, the one is taken that keeps the busiest worker busy for the
    shortest time.

    Args:
        lengths: tokens of each item of the batch, at least `num_workers` items.
        token_budget: most tokens of a micro-batch, padding included.
    Returns: for each worker its micro-batches, each a list of positions in `lengths`.
    Raises:
        DataError: an item is longer than the budget, or there are fewer items than workers.
    """
    if len(lengths) < num_workers:
        raise DataError(
            f"a batch of {len(lengths)} examples cannot be dealt to {num_workers} workers"
        )
    longest = max(lengths)
    if longest > token_budget:
        raise DataError(f"an example of {longest} tokens exceeds micro_batch_tokens={token_budget}")
    plans = []
    while token_budget >= longest:
        groups = _grouped(lengths, num_workers=num_workers, token_budget=token_budget)
        plans.append(_dealt(groups, lengths, num_workers=num_workers))
        token_budget //= 2
    return min(plans, key=lambda plan: max(_cost(groups, lengths) for groups in plan))


def _grouped(lengths: Sequence[int], *, num_workers: int, token_budget: int) -> list[list[int]]:
    """Items sorted by length and grouped while rows times longest row stay within the budget.

    The largest group is then halved until the groups deal out evenly: ZeRO-2 and ZeRO-3 communicate
    in every backward pass, so workers must take the same number of them.
    """
    groups: list[list[int]] = []
    for item in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= token_budget:
            groups[-1].append(item)
        else:
            groups.append([item])
    while len(groups) % num_workers:
        largest = max(groups, key=len)
        groups.remove(largest)
        half = (len(largest) + 1) // 2
        groups.extend([largest[:half], largest[half:]])
    return groups


def _dealt(
    groups: list[list[int]], lengths: Sequence[int], *, num_workers: int
) -> list[list[list[int]]]:
    """Groups to workers, the most costly first, back and forth."""
    groups.sort(key=lambda group: -_padded(group, lengths))
    plan: list[list[list[int]]] = [[] for _ in range(num_workers)]
    for index, group in enumerate(groups):
        lap, seat = divmod(index, num_workers)
        plan[seat if lap % 2 == 0 else num_workers - 1 - seat].append(group)
    return plan


def _padded(group: Sequence[int], lengths: Sequence[int]) -> int:
    return len(group) * max(lengths[item] for item in group)


def _cost(groups: Sequence[Sequence[int]], lengths: Sequence[int]) -> int:
    """Time of one worker's passes, counted in tokens."""
    return sum(_padded(group, lengths) + MICRO_BATCH_COST_TOKENS for group in groups)
