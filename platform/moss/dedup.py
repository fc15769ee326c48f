"""Which texts say the same thing, which are too short, and in what language they are.

Exact duplicates by normal form, near duplicates by MinHash over character 5-grams at a Jaccard
similarity of 0.8 (the paper only says "deduplication"). Among the texts of a cluster the smallest
id wins, whatever the order or partitioning in which they came.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from moss.config.synthesis import DedupConfig
from moss.duplicate_index import DuplicateIndex
from moss.duplicate_index import Verdict as Verdict
from moss.sketches import jaccard as jaccard
from moss.sketches import normalize as normalize
from moss.sketches import shingles as shingles
from moss.types import Language

_CJK = re.compile(r"[一-鿿㐀-䶿]")
_WORD = re.compile(r"\w+")
_ALPHABETIC_WORD = re.compile(r"[^\W\d_]{2,}")


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
