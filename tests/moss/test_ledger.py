import asyncio
import os
import subprocess
import sys
import uuid
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moss import ledger_compaction, storage
from moss.errors import DataError, StorageError
from moss.ledger import Charge, Ledger, LedgerRecord, content_key
from moss.ledger_compaction import compact

RECORD = LedgerRecord(
    key=content_key("e", {"model": "m"}, 0),
    model="m",
    text="你好\nline",
    finish_reason="stop",
    prompt_tokens=3,
    completion_tokens=4,
    attempts=1,
)


def numbered(number: int) -> LedgerRecord:
    return replace(RECORD, key=content_key("e", {"model": "m"}, number), text=str(number))


def charge(number: int) -> Charge:
    return Charge(numbered(number).key, "m", 100, 10, "timeout")


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A ledger's folder, on the disk and on an object store."""
    return str(tmp_path) if request.param == "local" else f"memory://{uuid.uuid4().hex}"


def write(folder: str, *numbers: int) -> None:
    """One writer's life."""
    with Ledger(folder) as ledger:
        for number in numbers:
            ledger.append(numbered(number))


def texts(folder: str) -> list[str]:
    with Ledger(folder) as ledger:
        return sorted(record.text for record in ledger.records())


def test_records_of_all_writers_are_found_again(folder: str) -> None:
    with Ledger(folder) as first, Ledger(folder) as second:
        first.append(numbered(1))
        second.append(numbered(2))
        assert first.get(numbered(1).key) == numbered(1)
        assert first.get(numbered(2).key) is None
    with Ledger(folder) as later:
        assert len(later) == 2
        assert later.get(numbered(2).key) == numbered(2)
    assert texts(folder) == ["1", "2"]


def test_a_record_is_readable_by_others_before_the_writer_closes(folder: str) -> None:
    writer = Ledger(folder)
    writer.append(RECORD)
    assert Ledger(folder).get(RECORD.key) == RECORD
    writer.close()


def test_answers_stored_together_become_one_object_and_are_there_before_use() -> None:
    folder = f"memory://{uuid.uuid4().hex}"

    async def store() -> None:
        with Ledger(folder) as ledger:

            async def one(number: int) -> None:
                await ledger.store(numbered(number))
                assert Ledger(folder).get(numbered(number).key) == numbered(number)

            await asyncio.gather(*(one(number) for number in range(30)))
            assert ledger.get(numbered(29).key) == numbered(29)

    asyncio.run(store())
    assert len(storage.list_files(folder)) == 1


def test_a_store_that_refuses_fails_every_answer_of_the_group(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = f"memory://{uuid.uuid4().hex}"

    def refuse(path: str, data: bytes) -> None:
        raise StorageError(f"cannot write {path}")

    monkeypatch.setattr(storage, "write_bytes", refuse)

    async def store() -> list[object]:
        ledger = Ledger(folder)
        storing = (ledger.store(numbered(n)) for n in range(3))
        return list(await asyncio.gather(*storing, return_exceptions=True))

    assert all(isinstance(item, StorageError) for item in asyncio.run(store()))


@given(cut=st.integers(min_value=0, max_value=400))
def test_a_file_torn_anywhere_loses_only_its_last_record(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    folder = tmp_path_factory.mktemp("ledger")
    write(str(folder), 0, 1, 2)
    (file,) = folder.glob("*.jsonl")
    data = file.read_bytes()
    torn = data[: min(cut, len(data))]
    file.write_bytes(torn)
    with Ledger(str(folder)) as ledger:
        assert len(ledger) == torn.count(b"\n")
        ledger.append(numbered(9))
    with Ledger(str(folder)) as ledger:
        assert ledger.get(numbered(9).key) == numbered(9)


def test_a_foreign_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(DataError, match=r"x holds a line that is not a record"):
        Ledger(str(tmp_path))


def test_the_key_depends_on_endpoint_body_and_sample_only() -> None:
    key = content_key("e", {"a": 1, "b": [2]}, 0)
    assert key == content_key("e", {"b": [2], "a": 1}, 0)
    others = {
        content_key("f", {"a": 1, "b": [2]}, 0),
        content_key("e", {"a": 1, "b": [3]}, 0),
        content_key("e", {"a": 1, "b": [2]}, 1),
    }
    assert len(others | {key}) == 4


def test_many_small_files_become_one_pack_with_the_same_answers(folder: str) -> None:
    for start in range(0, 60, 6):
        write(folder, *range(start, start + 6))
    with Ledger(folder) as before:
        totals = before.totals()
    reader = Ledger(folder)
    compact(folder)
    assert len([name for name in storage.list_files(folder) if name.endswith(".jsonl")]) == 1
    with Ledger(folder) as ledger:
        assert ledger.totals() == totals == {"m": [60, 180, 240]}
        assert len(ledger) == 60
        for number in range(60):
            assert ledger.get(numbered(number).key) == numbered(number)
        assert ledger.get(numbered(60).key) is None
    assert texts(folder) == sorted(str(number) for number in range(60))
    assert reader.get(numbered(33).key) == numbered(33)  # its file went away meanwhile
    reader.close()


def test_many_packs_become_one_and_charges_stay_counted(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_compaction, "MAX_PACKS", 2)
    monkeypatch.setattr(ledger_compaction, "FROM_FILES", 2)

    async def charged(number: int) -> None:
        with Ledger(folder) as ledger:
            await ledger.store_charge(charge(number))

    for number in range(6):
        write(folder, number)
        asyncio.run(charged(100 + number))
        compact(folder)
    indexes = [name for name in storage.list_files(folder) if name.endswith(".index")]
    assert len(indexes) <= 3
    with Ledger(folder) as ledger:
        assert len(ledger) == 6
        assert ledger.totals() == {"m": [12, 6 * 103, 6 * 14]}
        assert ledger.bill().charges == {"m": [6, 600, 60]}


def test_a_living_writers_file_is_left_alone(tmp_path: Path) -> None:
    folder = str(tmp_path)
    code = (
        "import sys; sys.path[:0] = ['.', 'platform']\n"
        "from tests.moss.test_ledger import Ledger, numbered\n"
        f"ledger = Ledger({folder!r}); ledger.append(numbered(0))\n"
        "print('up', flush=True); sys.stdin.readline()\n"
        "ledger.append(numbered(1)); print('more', flush=True); sys.stdin.readline()\n"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writer.stdin is not None
    assert writer.stdout is not None
    assert writer.stdout.readline() == "up\n"
    for number in range(2, 8):
        write(folder, number)
    compact(folder)
    assert len(list(tmp_path.glob("*.jsonl"))) == 2
    writer.stdin.write("\n")
    writer.stdin.flush()
    assert writer.stdout.readline() == "more\n"
    writer.kill()
    writer.communicate(timeout=20)
    assert texts(folder) == sorted(str(number) for number in range(8))
    for number in range(8, 12):
        write(folder, number)
    compact(folder)
    with Ledger(folder) as ledger:
        assert len(ledger) == 12
        assert ledger.totals()["m"][0] == 12


@pytest.mark.parametrize("killed_at", range(12))
def test_a_compaction_killed_at_any_step_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    folder = str(tmp_path)
    for number in range(5):
        write(folder, number)
    steps = iter(range(1000))

    class Kill(BaseException):
        pass

    def fragile(name: str) -> None:
        original = getattr(storage, name)

        def step(*arguments: object) -> object:
            if next(steps) == killed_at:
                raise Kill
            return original(*arguments)

        monkeypatch.setattr(storage, name, step)

    with monkeypatch.context():
        for name in ("put_file", "write_bytes", "remove"):
            fragile(name)
        with suppress(Kill):
            compact(folder)
    monkeypatch.undo()
    for _ in range(2):
        with Ledger(folder) as ledger:
            assert ledger.totals() == {"m": [5, 15, 20]}
            assert [ledger.get(numbered(n).key) for n in range(5)] == [
                numbered(n) for n in range(5)
            ]
        compact(folder)


def test_a_writer_seals_its_file_and_goes_on(tmp_path: Path) -> None:
    folder = str(tmp_path)

    async def work() -> None:
        with Ledger(folder, seal_entries=10) as ledger:
            for number in range(25):
                await ledger.store_sent(charge(number))
                if number == 9:
                    await ledger.store_sent(charge(99))  # in flight over a seal
                await ledger.store(numbered(number))
                assert ledger.get(numbered(number).key) == numbered(number)
            await ledger.store_unsold(numbered(99).key)

    asyncio.run(work())
    assert len(list(tmp_path.glob("*.index"))) == 2
    with Ledger(folder) as ledger:
        assert len(ledger) == 25
        assert ledger.totals() == {"m": [25, 75, 100]}


def test_what_was_in_flight_at_a_kill_counts_at_its_worst_case(folder: str) -> None:
    async def work() -> None:
        ledger = Ledger(folder)
        for number in range(4):
            await ledger.store_sent(charge(number))
        await ledger.store(numbered(0))
        await ledger.store_unsold(numbered(1).key)
        await ledger.store_charge(charge(2))

    asyncio.run(work())
    with Ledger(folder) as ledger:
        assert ledger.totals() == {"m": [3, 3 + 100 + 100, 4 + 10 + 10]}
        assert ledger.bill().charges == ledger.bill().in_flight == {"m": [1, 100, 10]}


def test_what_was_in_flight_stays_told_apart_in_a_pack(folder: str) -> None:
    async def killed(number: int) -> None:
        await Ledger(folder).store_sent(charge(number))

    for number in range(5):
        asyncio.run(killed(number))
    compact(folder)
    with Ledger(folder) as ledger:
        assert ledger.bill().in_flight == ledger.totals() == {"m": [5, 500, 50]}
        assert ledger.bill().charges == {}


def test_text_with_a_lone_surrogate_comes_back(folder: str) -> None:
    odd = replace(RECORD, text="a\ud800b")
    with Ledger(folder) as ledger:
        ledger.append(odd)
    assert Ledger(folder).get(odd.key) == odd


def test_two_million_entries_take_no_memory_of_the_process(tmp_path: Path) -> None:
    """With 20,000 entries: bytes of Python objects per entry, which is what would grow."""
    folder = str(tmp_path)
    with Ledger(folder, seal_entries=5_000) as ledger:
        for number in range(20_000):
            ledger.append(numbered(number))
        assert not ledger._recent
    index_bytes = sum(os.path.getsize(path) for path in tmp_path.glob("*.index"))
    assert index_bytes / 20_000 < 25
