"""Sequences on disk and micro-batches."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moss.errors import DataError
from moss.packing import (
    TokenSequences,
    TokenWindows,
    batch_items,
    pad_right,
    plan_micro_batches,
)


@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=40),
    num_workers=st.integers(1, 4),
    token_budget=st.integers(50, 300),
)
def test_every_item_is_dealt_once_within_budget_and_workers_get_equally_many(
    lengths: list[int], num_workers: int, token_budget: int
) -> None:
    lengths = lengths * num_workers
    plan = plan_micro_batches(lengths, num_workers=num_workers, token_budget=token_budget)
    groups = [group for worker in plan for group in worker]
    assert sorted(item for group in groups for item in group) == list(range(len(lengths)))
    assert all(len(g) * max(lengths[i] for i in g) <= token_budget for g in groups)
    assert len({len(worker) for worker in plan}) == 1


def test_one_long_item_does_not_pad_the_short_ones_and_work_is_even() -> None:
    lengths = [900, *[100] * 31]
    plan = plan_micro_batches(lengths, num_workers=2, token_budget=4096)
    padded = [sum(len(g) * max(lengths[i] for i in g) for g in worker) for worker in plan]
    assert sum(padded) <= 1.1 * sum(lengths)
    assert max(padded) <= 1.25 * sum(lengths) / 2


def test_equal_items_that_fit_are_one_micro_batch_per_worker() -> None:
    plan = plan_micro_batches([128] * 16, num_workers=2, token_budget=4096)
    assert [len(worker) for worker in plan] == [1, 1]


def test_too_long_an_item_is_refused_with_both_numbers() -> None:
    with pytest.raises(DataError, match="500 tokens exceeds micro_batch_tokens=100"):
        plan_micro_batches([500], num_workers=1, token_budget=100)


def test_fewer_items_than_workers_are_refused() -> None:
    with pytest.raises(DataError, match="1 examples cannot be dealt to 2 workers"):
        plan_micro_batches([5], num_workers=2, token_budget=100)


def test_an_epoch_visits_every_item_once_and_repeats_from_the_step_alone() -> None:
    seen = [i for step in range(5) for i in batch_items(step, batch_size=4, num_items=10, seed=3)]
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]
    assert batch_items(3, batch_size=4, num_items=10, seed=3) == seen[12:16]


def test_sequences_survive_the_disk_and_count_targets_like_a_plain_loop(tmp_path: Path) -> None:
    ids = [[5, 6, 7], [8], [9, 10]]
    masks = [[1, 0, 1], [1], [0, 1]]
    TokenSequences.from_lists(ids, masks).save(tmp_path / "s.npz")
    loaded = TokenSequences.load(tmp_path / "s.npz")
    assert [loaded.sequence(i)[0].tolist() for i in range(3)] == ids
    assert [loaded.sequence(i)[1].tolist() for i in range(3)] == masks
    assert loaded.target_counts.tolist() == [sum(mask[1:]) for mask in masks]
    assert loaded.lengths.tolist() == [3, 1, 2]


def test_windows_make_every_token_but_the_first_a_target_once(tmp_path: Path) -> None:
    np.save(tmp_path / "stream.npy", np.arange(31, dtype=np.int32))
    windows = TokenWindows.load(tmp_path / "stream.npy", window=7)
    targets = [t for i in range(len(windows.lengths)) for t in windows.sequence(i)[0][1:].tolist()]
    assert targets == list(range(1, 31))


def test_a_stream_shorter_than_a_window_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "stream.npy", np.arange(3))
    with pytest.raises(DataError, match="holds 3 tokens, one window needs 8"):
        TokenWindows.load(tmp_path / "stream.npy", window=8)


def test_padding_is_on_the_right_and_masked() -> None:
    ids_BT, mask_BT = pad_right([[1, 2, 3], [4]], pad_id=9)
    assert ids_BT.tolist() == [[1, 2, 3], [4, 9, 9]]
    assert mask_BT.tolist() == [[1, 1, 1], [1, 0, 0]]
