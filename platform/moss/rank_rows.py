"""Which rows of a batch each rank of a trained role computes.

All ranks have the whole batch and call the same collectives, so each gets equally many groups of
rows; one that has too few rows for that computes a row without response tokens instead.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from moss.rollouts import Experience, Ints, RolloutBatch


def rank_groups(lengths_B: Ints, *, rank: int, num_ranks: int, max_rows: int) -> list[Ints]:
    """Row indices of one rank, in groups of at most `max_rows` rows of like length.

    Rows sorted by length are dealt out in turn: ranks differ by at most one row, and those of their
    groups that run at the same time have like lengths. With one rank the groups are those of
    `moss.rollouts.length_sorted_groups`.

    Returns: equally many groups for every rank; some may be empty.
    """
    order = np.argsort(lengths_B, kind="stable").astype(np.int64)
    most_rows = -(-len(order) // num_ranks)
    return np.array_split(order[rank::num_ranks], -(-most_rows // max_rows))


def pick_rollouts(batch: RolloutBatch, rows: Ints) -> RolloutBatch:
    """The rows; in place of none, a row without response tokens."""
    if len(rows):
        return batch.rows(rows)
    shortest = batch.rows(_shortest_row(batch))
    return replace(shortest, mask_BT=np.zeros_like(shortest.mask_BT))


def pick_experience(experience: Experience, rows: Ints) -> Experience:
    """The rows; in place of none, a row without response tokens, which adds nothing to a loss."""
    if len(rows):
        return experience.rows(rows)
    shortest = experience.rows(_shortest_row(experience.rollouts))
    return replace(shortest, rollouts=pick_rollouts(experience.rollouts, rows))


def _shortest_row(batch: RolloutBatch) -> list[int]:
    return [int(np.argmin(batch.lengths_B))]
