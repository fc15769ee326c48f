"""Groups of actors: lost ranks are brought back where a guard stands, and are errors elsewhere."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.group import ActorGroup
from actors.pending import Losses
from moss.config.ppo_actors import ActorConfig
from moss.errors import ActorLostError, DataError, WaitTimeoutError

pytestmark = pytest.mark.ray


class Adder:
    """Adds what it was prepared with; a marker file says what befalls it, once."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._offset = 0

    def load(self, offset: int) -> None:
        self._offset = offset

    def add(self, number: int) -> int:
        if number < 0:
            raise DataError(f"{number} is negative")
        for fault in self._folder.glob(f"{number}-*"):
            fault.unlink()
            if fault.name.endswith("stopped"):
                os.kill(os.getpid(), signal.SIGSTOP)
            elif fault.name.endswith("asleep"):
                time.sleep(600)
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        return number + self._offset


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def adders(ray_cluster: None, faults: Path) -> Iterator[ActorGroup[Adder]]:
    group = ActorGroup.start("adder", ActorConfig(num_ranks=3, num_cpus=0.1), Adder, str(faults))
    group.prepare(Adder.load, 100).wait(60)
    yield group
    group.stop()


def test_a_lost_rank_fails_at_once_though_another_is_late(
    adders: ActorGroup[Adder], faults: Path
) -> None:
    (faults / "0-asleep").touch()
    (faults / "1-killed").touch()
    began = time.monotonic()
    with pytest.raises(ActorLostError, match=r"adder\[1\] died while adder\[1\]\.add was awaited"):
        adders.map(Adder.add, [0, 1, 2]).wait(120)
    assert time.monotonic() - began < 60
    adders.restart([0, 1]).wait(60)


def test_a_lost_rank_of_a_group_that_is_awaited_next_fails_at_once(
    adders: ActorGroup[Adder], faults: Path
) -> None:
    other = ActorGroup.start("other", ActorConfig(num_cpus=0.1), Adder, str(faults))
    fine = other.map(Adder.add, [3])
    assert adders.map(Adder.add, [1, 2]).wait(60, beside=[fine]) == [101, 102]
    assert fine.wait(60) == [3]
    (faults / "8-asleep").touch()
    (faults / "9-killed").touch()
    began = time.monotonic()
    late, lost = adders.map(Adder.add, [8]), other.map(Adder.add, [9])
    with pytest.raises(ActorLostError, match=r"other\[0\] died while other\[0\]\.add was awaited"):
        late.wait(120, beside=[lost])
    assert time.monotonic() - began < 60
    other.stop()
    adders.restart([0]).wait(60)


def test_dead_stopped_and_sleeping_ranks_are_brought_back_and_asked_again(
    adders: ActorGroup[Adder], faults: Path
) -> None:
    seen: list[Losses] = []

    def bring_back(losses: Losses) -> None:
        seen.append(losses)
        loaded, lost = adders.restart(list(losses)).settle(60)
        assert (sorted(loaded), lost) == (sorted(losses), {})

    adders.guard(bring_back)
    for fault in ("0-killed", "1-stopped", "2-asleep"):
        (faults / fault).touch()
    assert adders.map(Adder.add, [0, 1, 2]).wait(4) == [100, 101, 102]
    (losses,) = seen
    kinds = {rank: type(error) for rank, error in losses.items()}
    assert kinds == {0: ActorLostError, 1: WaitTimeoutError, 2: WaitTimeoutError}
    assert adders.call(Adder.add, 7).wait(60) == [107, 107, 107]
    with pytest.raises(DataError, match=r"adder\[0\]\.add: -1 is negative"):
        adders.map(Adder.add, [-1]).wait(60)
    assert len(seen) == 1


def test_a_lost_rank_that_owes_several_answers_is_brought_back_once(
    adders: ActorGroup[Adder], faults: Path
) -> None:
    seen: list[list[int]] = []

    def bring_back(losses: Losses) -> None:
        seen.append(list(losses))
        adders.restart(list(losses)).wait(60)

    adders.guard(bring_back)
    for fault in ("21-killed", "32-asleep"):
        (faults / fault).touch()
    owed = [adders.map(Adder.add, [tens, tens + 1, tens + 2]) for tens in (10, 20, 30, 40)]
    answers = [pending.wait(4) for pending in owed]
    assert answers == [[t + 100, t + 101, t + 102] for t in (10, 20, 30, 40)]
    assert seen == [[1], [2]]


def test_a_guard_that_gives_up_ends_the_wait_with_its_error(
    adders: ActorGroup[Adder], faults: Path
) -> None:
    def give_up(losses: Losses) -> None:
        raise losses[2]

    adders.guard(give_up)
    (faults / "5-killed").touch()
    with pytest.raises(ActorLostError, match=r"adder\[2\]"):
        adders.map(Adder.add, [3, 4, 5]).wait(60)
