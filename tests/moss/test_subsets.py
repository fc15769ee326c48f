from hypothesis import given
from hypothesis import strategies as st

from moss.recipes import Row, stable_unit
from moss.subsets import draw_rows


@given(st.lists(st.booleans(), max_size=60), st.integers(0, 70))
def test_the_rows_of_the_smallest_lots_come_in_their_order(offered: list[bool], count: int) -> None:
    rows: list[Row] = [{"id": f"{n:03d}", "in": flag} for n, flag in enumerate(offered)]

    def unit(row: Row) -> float:
        return stable_unit("draw", row["id"])

    drawn = draw_rows(rows, count, lambda row: unit(row) if row["in"] else None)
    chosen = sorted((row for row in rows if row["in"]), key=unit)[:count]
    assert list(drawn) == sorted(chosen, key=lambda row: str(row["id"]))
