import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from moss import storage
from moss.checkpoints import (
    fetch_training_state,
    load_latest_training_state,
    save_training_state,
)
from moss.errors import DataError, StorageError

KillAt = Callable[[str, Sequence[str]], dict[str, Path]]


def _writer(text: str) -> Callable[[str], None]:
    def write(folder: str) -> None:
        (Path(folder) / "model.bin").write_text(text)
        (Path(folder) / "shards").mkdir()
        (Path(folder) / "shards" / "optimizer.bin").write_text(text * 100)

    return write


def _steps(folder: str) -> list[str]:
    return sorted({name.partition("/")[0] for name in storage.list_files(folder)})


def test_the_latest_state_is_found_with_its_files(place: str) -> None:
    assert load_latest_training_state(place) is None
    for step in (1, 20, 3):
        path = save_training_state(place, step, _writer(f"state {step}"), keep=9)
        assert load_latest_training_state(place) == (step, path)
        assert storage.read_text(storage.join(path, "model.bin")) == f"state {step}"


def test_only_the_newest_states_are_kept(place: str) -> None:
    for step in range(1, 6):
        save_training_state(place, step, _writer("x"), keep=2)
    assert _steps(place) == ["step-000004", "step-000005"]


def _truncate(path: str) -> None:
    storage.write_bytes(path, storage.read_bytes(path)[:-9])


def _flip(path: str) -> None:
    storage.write_bytes(path, b"?" + storage.read_bytes(path)[1:])


@pytest.mark.parametrize("damage", [_truncate, _flip, storage.remove])
@pytest.mark.parametrize("name", ["model.bin", "shards/optimizer.bin", "state.json"])
def test_loading_walks_back_to_the_last_whole_state_and_says_why(
    place: str, name: str, damage: Callable[[str], None]
) -> None:
    first = save_training_state(place, 1, _writer("one"))
    second = save_training_state(place, 2, _writer("two"))
    damage(storage.join(second, name))
    with pytest.warns(UserWarning, match=f"step-000002 is not whole .*{name}"):
        assert load_latest_training_state(place) == (1, first)
    save_training_state(place, 2, _writer("two again"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_latest_training_state(place) == (2, second)


def test_states_beyond_the_one_resumed_from_give_way(place: str) -> None:
    for step in (1, 2, 9):
        save_training_state(place, step, _writer("x"), keep=3)
    save_training_state(place, 3, _writer("x"), keep=2)
    assert _steps(place) == ["step-000002", "step-000003"]


def test_a_writer_that_writes_nothing_or_fails_leaves_the_older_state(place: str) -> None:
    first = save_training_state(place, 1, _writer("one"))

    def fail(folder: str) -> None:
        (Path(folder) / "half").write_text("x")
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        save_training_state(place, 2, fail)
    with pytest.raises(StorageError, match="state of step 2 has no files"):
        save_training_state(place, 2, lambda folder: None)
    assert load_latest_training_state(place) == (1, first)
    assert _steps(place) == ["step-000001"]


def test_keeping_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="keep=0 must be at least 1"):
        save_training_state(str(tmp_path), 1, _writer("x"), keep=0)


def test_a_state_is_fetched_to_local_files(place: str, tmp_path: Path) -> None:
    path = save_training_state(storage.join(place, "states"), 1, _writer("one"))
    local = Path(fetch_training_state(path, str(tmp_path / "fetched")))
    assert (local / "model.bin").read_text() == "one"
    assert (local / "shards" / "optimizer.bin").read_text() == "one" * 100


def test_a_save_killed_anywhere_leaves_a_whole_state_to_go_on_from(kill_at: KillAt) -> None:
    body = (
        "from pathlib import Path\n"
        "from moss.checkpoints import save_training_state\n"
        "def body(folder):\n"
        "    for step in range(1, 5):\n"
        "        def write(state):\n"
        "            (Path(state) / 'model.bin').write_text(f'state {step}')\n"
        "        save_training_state(folder, step, write, keep=2)\n"
    )
    points = [
        f"{name}:3"
        for name in (
            "state/files_written",
            "storage/temp_written",
            "storage/renamed",
            "folder/arrived",
            "folder/renamed",
            "state/published",
        )
    ]
    for point, folder in kill_at(body, points).items():
        expected = 3 if point in ("folder/renamed:3", "state/published:3") else 2
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = load_latest_training_state(str(folder))
        assert found == (expected, str(folder / f"step-00000{expected}")), point
        assert (Path(found[1]) / "model.bin").read_text() == f"state {expected}"
