import pytest
from datasketch import MinHash, MinHashLSH
from hypothesis import given, settings
from hypothesis import strategies as st

from moss.config.synthesis import DedupConfig
from moss.errors import DataError
from moss.sketches import Sketch, normalize, shingles, sketch_texts

CONFIG = DedupConfig()


def least(text: str) -> list[int]:
    sketch = MinHash(num_perm=CONFIG.num_permutations, seed=1)
    sketch.update_batch([gram.encode() for gram in shingles(text, CONFIG.ngram)])
    return [int(value) for value in sketch.hashvalues]


@settings(deadline=None)
@given(st.lists(st.text(alphabet="abc d", max_size=30), min_size=1, max_size=12))
def test_texts_share_a_band_exactly_where_datasketch_says_so(texts: list[str]) -> None:
    lsh = MinHashLSH(threshold=CONFIG.jaccard, num_perm=CONFIG.num_permutations)
    for left, a in zip(texts, sketch_texts(texts, CONFIG), strict=True):
        for right, b in zip(texts, sketch_texts(texts[::-1], CONFIG)[::-1], strict=True):
            one, other = least(left), least(right)
            expected = [
                one[at : at + lsh.r] == other[at : at + lsh.r]
                for at in range(0, lsh.b * lsh.r, lsh.r)
            ]
            assert [x == y for x, y in zip(a.bands, b.bands, strict=True)] == expected
            assert (a.exact == b.exact) == (normalize(left) == normalize(right))


@settings(deadline=None)
@given(st.lists(st.text(max_size=3000), max_size=12))
def test_a_sketch_does_not_depend_on_the_batch_it_was_made_in(texts: list[str]) -> None:
    alone = [sketch_texts([text], CONFIG)[0] for text in texts]
    assert sketch_texts(texts, CONFIG) == alone


@settings(deadline=None)
@given(st.text(alphabet=st.characters()))
def test_a_sketch_survives_its_way_in_a_row(text: str) -> None:
    (sketch,) = sketch_texts([text], CONFIG)
    assert Sketch.unpack(sketch.pack()) == sketch


def test_text_with_a_lone_surrogate_has_a_sketch() -> None:
    assert sketch_texts(["half of a pair: \ud83d"], CONFIG)


@pytest.mark.parametrize("packed", ["short", "\x00" * 40])
def test_other_text_is_refused(packed: str) -> None:
    with pytest.raises(DataError, match="not a packed sketch"):
        Sketch.unpack(packed)
