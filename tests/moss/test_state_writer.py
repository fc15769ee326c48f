"""States saved in a thread: one at a time, whole or not at all, and full disks survived."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event

import pytest
import torch

from moss import state_writer, storage
from moss.checkpoints import (
    full_disk_as_storage_error,
    load_latest_training_state,
    publish_training_state,
)
from moss.errors import StorageError, WaitTimeoutError
from moss.state_writer import StateWriter


class Failures:
    """What a writer reported."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, str]] = []

    def __call__(self, step: int, error: Exception) -> None:
        self.seen.append((step, str(error)))


def writer_of(
    folder: Path, failures: Failures, *, keep_best: int = 0, timeout_s: float = 60.0
) -> StateWriter:
    return StateWriter(
        str(folder),
        keep=2,
        keep_best=keep_best,
        max_failed=3,
        timeout_s=timeout_s,
        report_failure=failures,
    )


def text(content: str) -> Callable[[str], None]:
    def write(folder: str) -> None:
        Path(folder, "model.bin").write_text(content)

    return write


def steps(folder: Path) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in sorted(folder.glob("step-*"))]


def test_states_are_whole_once_the_writer_is_closed(tmp_path: Path) -> None:
    failures = Failures()
    with writer_of(tmp_path, failures) as writer:
        for step in (2, 4, 6):
            writer.save(step, text(f"state {step}"), score=0.0)
    assert (steps(tmp_path), failures.seen) == ([4, 6], [])
    found = load_latest_training_state(str(tmp_path))
    assert found == (6, str(tmp_path / "step-000006"))
    assert storage.read_text(f"{found[1]}/model.bin") == "state 6"


def test_the_best_states_stay_beside_the_newest(tmp_path: Path) -> None:
    with writer_of(tmp_path, Failures(), keep_best=2) as writer:
        for step, score in enumerate([0.1, 0.9, 0.3, 0.8, 0.2, 0.0, 0.1], start=1):
            writer.save(step, text("x"), score=score)
    assert steps(tmp_path) == [2, 4, 6, 7]
    assert load_latest_training_state(str(tmp_path)) == (7, str(tmp_path / "step-000007"))


def test_training_goes_on_while_a_state_is_written_and_only_one_is_in_flight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published, go_on = Event(), Event()

    def slow(*args: object, **kwargs: object) -> str:
        assert go_on.wait(60)
        published.set()
        return publish_training_state(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(state_writer, "publish_training_state", slow)
    failures = Failures()
    with writer_of(tmp_path, failures) as writer:
        writer.save(1, text("one"), score=0.0)
        assert not published.is_set()
        assert load_latest_training_state(str(tmp_path)) is None
        go_on.set()
        writer.save(2, text("two"), score=0.0)
        assert published.is_set()
    assert (steps(tmp_path), failures.seen) == ([1, 2], [])


def test_a_write_without_end_fails_the_next_save_in_time_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = Event()
    monkeypatch.setattr(state_writer, "publish_training_state", lambda *_, **__: go_on.wait(60))
    failures = Failures()
    writer = writer_of(tmp_path, failures, timeout_s=0.1)
    writer.save(1, text("one"), score=0.0)
    writer.save(2, text("two"), score=0.0)
    ((step, reason),) = failures.seen
    assert (step, "still being written after 0.1 s" in reason) == (2, True)
    go_on.set()
    writer.close()


def no_space(_: str) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_failures_are_reported_and_the_older_state_stays_until_too_many_in_a_row(
    tmp_path: Path,
) -> None:
    failures = Failures()
    with writer_of(tmp_path, failures) as writer:
        writer.save(1, text("one"), score=0.0)
        writer.save(2, no_space, score=0.0)
        writer.save(3, no_space, score=0.0)
        writer.save(4, text("four"), score=0.0)
        for step in (5, 6):
            writer.save(step, no_space, score=0.0)
        with pytest.raises(StorageError, match=r"3 training states in a row .*max_failed_saves=3"):
            writer.save(7, no_space, score=0.0)
    assert [step for step, _ in failures.seen] == [2, 3, 5, 6, 7]
    assert "No space left" in failures.seen[0][1]
    assert load_latest_training_state(str(tmp_path)) == (4, str(tmp_path / "step-000004"))


@pytest.mark.parametrize("point", ["state/files_written:2", "folder/arrived:2"])
def test_a_disk_that_fills_up_in_the_thread_is_a_counted_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    from moss import failpoints

    failpoints._visits.clear()
    monkeypatch.setenv("MOSS_FAILPOINT", f"{point}=full")
    failures = Failures()
    with writer_of(tmp_path, failures) as writer:
        for step in (1, 2, 3):
            writer.save(step, text(f"state {step}"), score=0.0)
    ((step, reason),) = failures.seen
    assert (step, "No space left" in reason) == (2, True)
    assert steps(tmp_path) == [1, 3]
    storage.sweep_temporary(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000001", "step-000003"]


def test_an_actor_that_gives_no_answer_is_no_failed_save(tmp_path: Path) -> None:
    def silent(_: str) -> None:
        raise WaitTimeoutError("policy[0].save_state gave no answer within 5 s")

    failures = Failures()
    with writer_of(tmp_path, failures) as writer, pytest.raises(WaitTimeoutError):
        writer.save(1, silent, score=0.0)
    assert (failures.seen, list(tmp_path.iterdir())) == ([], [])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount file systems")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full_leaves_the_older_state_and_its_space_is_given_back(
    small_disk: Path,
) -> None:
    def tensors(size: int) -> Callable[[str], None]:
        def write(folder: str) -> None:
            with full_disk_as_storage_error("the state"):
                torch.save(torch.arange(size), Path(folder) / "model.pt")

        return write

    failures = Failures()
    with writer_of(small_disk, failures) as writer:
        writer.save(1, tensors(40_000), score=0.0)
        writer.save(2, tensors(120_000), score=0.0)
        writer.save(3, tensors(50_000), score=0.0)
    assert [step for step, _ in failures.seen] == [2]
    assert steps(small_disk) == [1, 3]
    _, path = load_latest_training_state(str(small_disk)) or (0, "")
    assert torch.equal(torch.load(f"{path}/model.pt"), torch.arange(50_000))


def test_errors_of_the_program_are_not_taken_for_a_full_disk() -> None:
    with pytest.raises(RuntimeError, match="out of memory"), full_disk_as_storage_error("x"):
        raise RuntimeError("CUDA out of memory")
