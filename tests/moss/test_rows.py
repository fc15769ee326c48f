import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moss.errors import DataError
from moss.rows import read_parquet_bytes, rows_digest, rows_to_parquet

ROWS: list[dict[str, object]] = [
    {"id": "a", "score": 1.5, "parents": ["x"], "response": {"model": "m", "text": "字"}},
    {"id": "b", "score": None, "parents": [], "response": {"model": "n", "text": None}},
    {"id": "c", "extra": True},
]


def test_rows_survive_parquet_with_absent_keys_as_nulls() -> None:
    read = read_parquet_bytes(rows_to_parquet(ROWS, where="x"), where="x")
    assert read[0] == {**ROWS[0], "extra": None}
    assert read[2] == {"id": "c", "score": None, "parents": None, "response": None, "extra": True}
    assert read_parquet_bytes(rows_to_parquet([], where="x"), where="x") == []


@pytest.mark.parametrize("codec", ["none", "zstd", "snappy"])
@pytest.mark.parametrize("row_group_size", [1, 100])
def test_the_digest_does_not_depend_on_parquet_encoding(codec: str, row_group_size: int) -> None:
    buffer = io.BytesIO()
    table = pa.Table.from_pylist(read_parquet_bytes(rows_to_parquet(ROWS, where="x"), where="x"))
    pq.write_table(table, buffer, compression=codec, row_group_size=row_group_size)
    assert rows_digest(read_parquet_bytes(buffer.getvalue(), where="x")) == rows_digest(ROWS)


def test_the_digest_ignores_form_and_keeps_content() -> None:
    digest = rows_digest([{"id": "a", "n": 1, "list": [1, 2]}])
    assert rows_digest([{"list": (1, 2), "n": 1.0, "id": "a", "absent": None}]) == digest
    assert rows_digest([{"id": "a", "n": np.int64(1), "list": np.array([1, 2])}]) == digest
    for other in ({"id": "a", "n": 1, "list": [2, 1]}, {"id": "a", "n": "1", "list": [1, 2]}):
        assert rows_digest([other]) != digest
    assert rows_digest([{"id": "a"}, {"id": "b"}]) != rows_digest([{"id": "b"}, {"id": "a"}])
    assert rows_digest([{"id": "a"}, {}]) != rows_digest([{"id": "a"}])


def test_a_lone_surrogate_names_its_row_and_column() -> None:
    rows = [{"id": "a", "text": "fine"}, {"id": "b", "text": "broken \ud83d"}]
    with pytest.raises(DataError, match=r"row 1 \(id 'b'\), column 'text'.*lone surrogate"):
        rows_to_parquet(rows, where="x.parquet")
    with pytest.raises(DataError, match=r"row 1 \(id 'b'\) holds a lone surrogate"):
        rows_digest(rows)


def test_a_schema_refuses_what_it_does_not_describe() -> None:
    schema = pa.schema([pa.field("id", pa.string(), nullable=False), pa.field("n", pa.int64())])
    read = read_parquet_bytes(rows_to_parquet([{"id": "a"}], schema, where="x"), where="x")
    assert read == [{"id": "a", "n": None}]
    with pytest.raises(DataError, match=r"columns \['m'\] that the schema lacks"):
        rows_to_parquet([{"id": "a", "m": 1}], schema, where="x")
    with pytest.raises(DataError, match="row 0 has no value in column 'id'"):
        rows_to_parquet([{"n": 1}], schema, where="x")
    with pytest.raises(DataError, match=r"row 1 \(id 'b'\), column 'n' cannot be stored as int64"):
        rows_to_parquet([{"id": "a", "n": 1}, {"id": "b", "n": "two"}], schema, where="x")


def test_columns_of_mixed_types_are_refused() -> None:
    with pytest.raises(DataError, match="column 'n' cannot be stored as one Parquet type"):
        rows_to_parquet([{"n": 1}, {"n": "two"}], where="x")
    with pytest.raises(DataError, match="no canonical form"):
        rows_digest([{"n": object()}])


def test_a_truncated_file_is_not_read_in_part() -> None:
    data = rows_to_parquet(ROWS, where="x")
    for end in (0, 4, len(data) // 2, len(data) - 1):
        with pytest.raises(DataError, match="x is not whole Parquet"):
            read_parquet_bytes(data[:end], where="x")
