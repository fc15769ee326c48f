"""Which texts say the same thing, which are too short, and in what language they are.

Exact duplicates by normal form, near duplicates by MinHash over character 5-grams at a Jaccard
similarity of 0.8 (requirements 5.2, decision 11; the paper only says "deduplication"). Among the
texts of a cluster the smallest id wins, whatever the order or partitioning in which they came.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from datasketch import MinHash, MinHashLSH

from moss.config.synthesis import DedupConfig
from moss.types import Language

_SPACE = re.compile(r"\s+")
_CJK = re.compile(r"[一-鿿㐀-䶿]")
_WORD = re.compile(r"\w+")
_ALPHABETIC_WORD = re.compile(r"[^\W\d_]{2,}")
_HASH_SEED = 1


@dataclass(frozen=True, slots=True)
class Verdict:
    """What deduplication decided on one text."""

    id: str
    kept_id: str
    """The text that stands for it; its own id when it is kept."""
    reason: str
    """Empty when kept; "exact duplicate" or "near duplicate"."""


def normalize(text: str) -> str:
    """NFKC, case folded, runs of white space to one space."""
    return _SPACE.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def detect_language(text: str) -> Language:
    """Chinese if CJK characters outnumber words of two or more letters, else English."""
    num_cjk = len(_CJK.findall(text))
    num_words = len(_ALPHABETIC_WORD.findall(_CJK.sub(" ", text)))
    return "zh" if num_cjk > num_words else "en"


def count_words(text: str) -> int:
    """Length in words, each CJK character being one: comparable between English and Chinese."""
    return len(_CJK.findall(text)) + len(_WORD.findall(_CJK.sub(" ", text)))


def is_too_short(text: str, config: DedupConfig) -> bool:
    """Fewer than the minimum of CJK characters (Chinese) or of words and numbers (English)."""
    if detect_language(text) == "zh":
        return len(_CJK.findall(text)) + len(re.findall(r"[a-z0-9]+", text.casefold())) < (
            config.min_cjk_characters
        )
    return len(_WORD.findall(text)) < config.min_words


def shingles(text: str, size: int) -> frozenset[str]:
    """Character n-grams of the normal form; a shorter text is one n-gram."""
    normal = normalize(text)
    if len(normal) <= size:
        return frozenset({normal})
    return frozenset(normal[start : start + size] for start in range(len(normal) - size + 1))


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """Size of the intersection over size of the union."""
    return len(a & b) / len(a | b)


class DuplicateIndex:
    """Grows text by text. Feed ids in ascending order and the smallest of each cluster is kept.

    Near duplicates are compared with kept texts only, so a chain a~b~c where a and c differ keeps
    both a and c.
    """

    def __init__(self, config: DedupConfig) -> None:
        self._config = config
        self._exact: dict[str, str] = {}
        self._shingles: dict[str, frozenset[str]] = {}
        self._lsh = MinHashLSH(threshold=config.jaccard, num_perm=config.num_permutations)

    def add(self, text_id: str, text: str) -> Verdict:
        """Keep `text` if nothing kept before says the same."""
        normal = normalize(text)
        if normal in self._exact:
            return Verdict(text_id, self._exact[normal], "exact duplicate")
        grams = shingles(text, self._config.ngram)
        sketch = MinHash(num_perm=self._config.num_permutations, seed=_HASH_SEED)
        sketch.update_batch([gram.encode() for gram in sorted(grams)])
        near = sorted(
            kept
            for kept in self._lsh.query(sketch)
            if jaccard(grams, self._shingles[kept]) >= self._config.jaccard
        )
        if near:
            self._exact[normal] = near[0]
            return Verdict(text_id, near[0], "near duplicate")
        self._exact[normal] = text_id
        self._shingles[text_id] = grams
        self._lsh.insert(text_id, sketch)
        return Verdict(text_id, text_id, "")


def deduplicate(texts: Iterable[tuple[str, str]], config: DedupConfig) -> list[Verdict]:
    """Verdicts on (id, text) pairs, in ascending order of id."""
    index = DuplicateIndex(config)
    return [index.add(text_id, text) for text_id, text in sorted(texts)]


def cluster_sizes(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """Kept id -> number of texts it stands for: the frequency that deduplication would erase."""
    sizes: dict[str, int] = {}
    for verdict in verdicts:
        sizes[verdict.kept_id] = sizes.get(verdict.kept_id, 0) + 1
    return sizes
