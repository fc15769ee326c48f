"""Rows as Parquet bytes and as a digest that does not depend on how Parquet encodes them."""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, BinaryIO

from moss.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH_ROWS = 1024
ROW_GROUP_ROWS = 2048
"""Rows of one group of a file that is written as a stream: what writer and reader hold at once."""


def rows_to_parquet(
    rows: Sequence[Mapping[str, object]], schema: pa.Schema | None = None, *, where: str
) -> bytes:
    """Parquet bytes of rows in the order given; equal rows give equal bytes.

    Without a schema the columns are all keys in order of first appearance, types inferred; a key a
    row lacks is null. `where` names the destination in messages.

    Raises:
        DataError: a key outside the schema, a null where the schema forbids it, a value that does
            not fit its column, or text with a lone surrogate; names row and column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = _table(rows, schema, where=where)
    buffer = io.BytesIO()
    try:
        pq.write_table(table, buffer, compression="zstd")
    except pa.ArrowException as error:
        raise DataError(f"rows for {where} cannot be stored as Parquet: {error}") from error
    return buffer.getvalue()


def write_row_groups(
    file: BinaryIO, rows: Iterable[Mapping[str, object]], schema: pa.Schema, *, where: str
) -> None:
    """Write rows into an open file as Parquet, in the order given, one group in memory at a time.

    Equal rows give equal bytes. For errors see `rows_to_parquet`; rows are counted from the start
    of their group.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = iter(rows)
    try:
        with pq.ParquetWriter(file, schema, compression="zstd") as writer:
            while group := list(islice(rows, ROW_GROUP_ROWS)):
                writer.write_table(_table(group, schema, where=where))
    except pa.ArrowException as error:
        raise DataError(f"rows for {where} cannot be stored as Parquet: {error}") from error


def read_parquet_bytes(data: bytes, *, where: str) -> list[dict[str, object]]:
    """Rows of one Parquet file held in memory. Raises DataError if it is not whole Parquet."""
    return list(iterate_parquet(io.BytesIO(data), where=where))


def iterate_parquet(file: BinaryIO, *, where: str) -> Iterator[dict[str, object]]:
    """Rows of an open Parquet file, a thousand in memory at a time. Raises DataError if torn."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=_BATCH_ROWS):
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{where} is not whole Parquet ({error}); run the stage that writes it again"
        ) from error


def rows_digest(rows: Iterable[Mapping[str, object]]) -> str:
    """sha256 over rows as canonical JSON lines, hex.

    Rows that a Parquet round trip makes of these have the same digest: key order, a null against an
    absent key, `1.0` against `1` and a tuple or array against a list make no difference. Row
    order does.

    Raises:
        DataError: a value without a canonical form, or a lone surrogate; names the row.
    """
    digest = hashlib.sha256()
    for index, row in enumerate(rows):
        digest.update(_canonical_line(row, index))
    return digest.hexdigest()


def _canonical_line(row: Mapping[str, object], index: int) -> bytes:
    try:
        text = json.dumps(
            _canonical(row), sort_keys=True, ensure_ascii=False, separators=(",", ":")
        )
        return text.encode("utf-8") + b"\n"
    except UnicodeEncodeError as error:
        raise DataError(
            f"row {index} (id {row.get('id')!r}) holds a lone surrogate; replace it before writing"
        ) from error
    except TypeError as error:
        raise DataError(
            f"row {index} (id {row.get('id')!r}) has no canonical form: {error}"
        ) from error


def _canonical(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _canonical(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_canonical(item) for item in value]
    if isinstance(value, float):
        return int(value) if math.isfinite(value) and value.is_integer() else value
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    to_plain = getattr(value, "tolist", None)  # NumPy scalars and arrays, as Ray Data gives them
    return _canonical(to_plain()) if to_plain is not None else value


def _table(
    rows: Sequence[Mapping[str, object]], schema: pa.Schema | None, *, where: str
) -> pa.Table:
    import pyarrow as pa

    found = list(dict.fromkeys(key for row in rows for key in row))
    if schema is None:
        return pa.table({name: _column(rows, name, None, where=where) for name in found})
    unknown = [name for name in found if name not in schema.names]
    if unknown:
        raise DataError(
            f"rows for {where} have columns {unknown} that the schema lacks; "
            f"it has {list(schema.names)}"
        )
    columns = [_column(rows, field.name, field, where=where) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def _column(
    rows: Sequence[Mapping[str, object]], name: str, field: pa.Field | None, *, where: str
) -> pa.Array:
    import pyarrow as pa

    values = [row.get(name) for row in rows]
    column_type = None if field is None else field.type
    try:
        array = pa.array(values, type=column_type)
    except (pa.ArrowException, UnicodeError, OverflowError, TypeError, ValueError) as error:
        index = _first_misfit(values, column_type)
        place = f"row {index} (id {rows[index].get('id')!r})" if index is not None else "some row"
        raise DataError(
            f"rows for {where}: {place}, column {name!r} cannot be stored as "
            f"{column_type or 'one Parquet type'}: {_reason(error)}"
        ) from error
    if field is not None and not field.nullable and array.null_count:
        raise DataError(
            f"rows for {where}: row {values.index(None)} has no value in column {name!r}, "
            "which the schema makes mandatory"
        )
    return array


def _first_misfit(values: Sequence[object], column_type: pa.DataType | None) -> int | None:
    import pyarrow as pa

    for index, value in enumerate(values):
        try:
            pa.array([value], type=column_type)
        except (pa.ArrowException, UnicodeError, OverflowError, TypeError, ValueError):
            return index
    return None


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeError):
        return "the text holds a lone surrogate; replace it before writing"
    return str(error)
