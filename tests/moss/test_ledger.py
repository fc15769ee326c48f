from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moss.errors import ConfigError, DataError
from moss.ledger import Ledger, LedgerRecord, content_key

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


def test_records_of_all_writers_are_found_again(tmp_path: Path) -> None:
    with Ledger(str(tmp_path)) as first, Ledger(str(tmp_path)) as second:
        first.append(numbered(1))
        second.append(numbered(2))
        assert first.get(numbered(1).key) == numbered(1)
        assert first.get(numbered(2).key) is None
    with Ledger(str(tmp_path)) as later:
        assert len(later) == 2
        assert later.get(numbered(2).key) == numbered(2)
        assert sorted(record.text for record in later.records()) == ["1", "2"]


def test_a_record_is_readable_by_others_before_the_writer_closes(tmp_path: Path) -> None:
    writer = Ledger(str(tmp_path))
    writer.append(RECORD)
    assert Ledger(str(tmp_path)).get(RECORD.key) == RECORD
    writer.close()


@given(cut=st.integers(min_value=0, max_value=400))
def test_a_file_torn_anywhere_loses_only_its_last_record(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    folder = tmp_path_factory.mktemp("ledger")
    with Ledger(str(folder)) as ledger:
        for number in range(3):
            ledger.append(numbered(number))
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
    with pytest.raises(DataError, match=r"x\.jsonl holds a line that is not a record"):
        Ledger(str(tmp_path))


def test_object_storage_is_refused_with_advice() -> None:
    with pytest.raises(ConfigError, match="object storage cannot append"):
        Ledger("s3://bucket/ledger")


def test_the_key_depends_on_endpoint_body_and_sample_only() -> None:
    key = content_key("e", {"a": 1, "b": [2]}, 0)
    assert key == content_key("e", {"b": [2], "a": 1}, 0)
    others = {
        content_key("f", {"a": 1, "b": [2]}, 0),
        content_key("e", {"a": 1, "b": [3]}, 0),
        content_key("e", {"a": 1, "b": [2]}, 1),
    }
    assert len(others | {key}) == 4
