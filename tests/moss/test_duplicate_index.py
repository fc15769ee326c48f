import random
from collections.abc import Sequence

import pytest
from datasketch import MinHash, MinHashLSH
from hypothesis import given, settings
from hypothesis import strategies as st

from moss.config.synthesis import DedupConfig
from moss.dedup import jaccard, normalize, shingles
from moss.duplicate_index import DuplicateIndex, Verdict
from moss.sketches import Sketch, sketch_texts

CONFIG = DedupConfig()


class InMemoryIndex:
    """The oracle: all texts, shingles and sketches in dictionaries, looked up by `datasketch`."""

    def __init__(self) -> None:
        self._exact: dict[str, str] = {}
        self._shingles: dict[str, frozenset[str]] = {}
        self._lsh = MinHashLSH(threshold=CONFIG.jaccard, num_perm=CONFIG.num_permutations)

    def add(self, text_id: str, text: str) -> Verdict:
        normal = normalize(text)
        if normal in self._exact:
            return Verdict(text_id, self._exact[normal], "exact duplicate")
        grams = shingles(text, CONFIG.ngram)
        sketch = MinHash(num_perm=CONFIG.num_permutations, seed=1)
        sketch.update_batch([gram.encode() for gram in sorted(grams)])
        near = sorted(
            kept
            for kept in self._lsh.query(sketch)
            if jaccard(grams, self._shingles[kept]) >= CONFIG.jaccard
        )
        if near:
            self._exact[normal] = near[0]
            return Verdict(text_id, near[0], "near duplicate")
        self._exact[normal] = text_id
        self._shingles[text_id] = grams
        self._lsh.insert(text_id, sketch)
        return Verdict(text_id, text_id, "")


@st.composite
def families(draw: st.DrawFn) -> list[str]:
    """Texts of which many are edits of each other: one letter, one word, case or width."""
    bases = draw(st.lists(st.text(alphabet="abcde fgh", min_size=8, max_size=60), min_size=1))
    texts = []
    for _ in range(draw(st.integers(1, 25))):
        text = draw(st.sampled_from(bases))
        at = draw(st.integers(0, len(text)))
        edit = draw(st.sampled_from(["", "x", " ", "A", "Ｂ", "word "]))
        texts.append(text[:at] + edit + text[at + draw(st.integers(0, 1)) :])
    return texts


@settings(deadline=None)
@given(families())
def test_verdicts_are_those_of_the_index_in_memory(texts: list[str]) -> None:
    oracle, index = InMemoryIndex(), DuplicateIndex(CONFIG)
    for number, text in enumerate(texts):
        text_id = f"{number:03d}"
        assert index.add(text_id, text) == oracle.add(text_id, text)


@settings(deadline=None)
@given(families(), st.integers(1, 5))
def test_verdicts_do_not_depend_on_which_workers_made_the_sketches(
    texts: list[str], num_workers: int
) -> None:
    made: dict[int, Sketch] = {}
    for worker in range(num_workers):
        part = range(worker, len(texts), num_workers)
        sketches = sketch_texts([texts[number] for number in part], CONFIG)
        made.update(zip(part, sketches, strict=True))
    alone, together = DuplicateIndex(CONFIG), DuplicateIndex(CONFIG)
    for number, text in enumerate(texts):
        text_id = f"{number:03d}"
        assert together.add(text_id, text, made[number]) == alone.add(text_id, text)


def test_a_cache_smaller_than_the_index_changes_no_verdict() -> None:
    texts = list(_many_texts(3000))
    oracle, index = InMemoryIndex(), DuplicateIndex(CONFIG, cache_mib=0)
    expected = [oracle.add(f"{n:05d}", text) for n, text in enumerate(texts)]
    found = [index.add(f"{n:05d}", text) for n, text in enumerate(texts)]
    assert found == expected
    assert {verdict.reason for verdict in found} == {"", "exact duplicate", "near duplicate"}


def _many_texts(count: int) -> Sequence[str]:
    rng = random.Random(3)
    words = ["river", "stone", "cloud", "market", "window", "garden", "letter", "engine"]
    texts: list[str] = []
    for _ in range(count):
        if texts and rng.random() < 0.3:
            texts.append(rng.choice(texts) + rng.choice(["", "!", " ", " now"]))
        else:
            texts.append(" ".join(f"{rng.choice(words)}{rng.randrange(100)}" for _ in range(9)))
    return texts


@pytest.mark.parametrize("text", ["", "\ud83d", "a" * 100_000])
def test_odd_texts_are_found_again(text: str) -> None:
    index = DuplicateIndex(CONFIG)
    assert index.add("a", text).reason == ""
    assert index.add("b", text).reason == "exact duplicate"
