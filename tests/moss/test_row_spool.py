import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moss.errors import DataError
from moss.manifest import STATUSES, count_statuses
from moss.row_spool import RowSpool

ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.text(max_size=6),
            "status": st.sampled_from(STATUSES),
            "texts": st.lists(st.text(alphabet=st.characters(), max_size=8), max_size=3),
        }
    ),
    max_size=30,
)


@settings(deadline=None)
@given(ROWS)
def test_rows_come_back_in_order_of_id_whatever_the_order_they_came_in(
    rows: list[dict[str, object]],
) -> None:
    spool = RowSpool(rows)
    expected = sorted(rows, key=lambda row: str(row["id"]))
    assert list(spool) == expected
    assert list(spool) == expected
    assert len(spool) == len(rows)
    assert spool.counts() == count_statuses(rows)
    for status in STATUSES:
        assert list(spool.with_status(status)) == [r for r in expected if r["status"] == status]


def test_a_row_without_a_known_status_is_refused() -> None:
    with pytest.raises(DataError, match="statuses are ok"):
        RowSpool([{"id": "a", "status": "lost"}])
    assert len(RowSpool([])) == 0
