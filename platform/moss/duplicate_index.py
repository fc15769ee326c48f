"""The texts that deduplication has kept, on disk, in memory that does not grow with their number.

A text is looked up by the digest of its normal form and by its bands (`moss.sketches`); only the
texts of candidates are read back and compared. So a million texts take about half a gigabyte of
disk and `CACHE_MIB` of memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from moss.config.synthesis import DedupConfig
from moss.scratch import CACHE_MIB, Scratch, as_bytes, as_text
from moss.sketches import Sketch, jaccard, shingles, sketch_texts

_TABLES = (
    "CREATE TABLE kept (number INTEGER PRIMARY KEY, id TEXT NOT NULL, text BLOB NOT NULL)",
    "CREATE TABLE exact (digest BLOB PRIMARY KEY, kept_id TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE band (key INTEGER, number INTEGER, PRIMARY KEY (key, number)) WITHOUT ROWID",
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What deduplication decided on one text."""

    id: str
    kept_id: str
    """The text that stands for it; its own id when it is kept."""
    reason: str
    """Empty when kept; "exact duplicate" or "near duplicate"."""


class DuplicateIndex:
    """Grows text by text. Feed ids in ascending order and the smallest of each cluster is kept.

    Near duplicates are compared with kept texts only, so a chain a~b~c where a and c differ keeps
    both a and c.
    """

    def __init__(self, config: DedupConfig, *, cache_mib: int = CACHE_MIB) -> None:
        self._config = config
        self._scratch = Scratch(*_TABLES, cache_mib=cache_mib)
        self._num_kept = 0

    def add(self, text_id: str, text: str, sketch: Sketch | None = None) -> Verdict:
        """Keep `text` if nothing kept before says the same.

        Args:
            sketch: the text's, if a worker has made it.

        Raises:
            StorageError: the scratch disk is full.
        """
        if sketch is None:
            (sketch,) = sketch_texts([text], self._config)
        known = self._scratch.first("SELECT kept_id FROM exact WHERE digest = ?", (sketch.exact,))
        if known is not None:
            return Verdict(text_id, str(known[0]), "exact duplicate")
        near_id = self._nearest(text, sketch)
        kept_id = text_id if near_id is None else near_id
        self._scratch.write("INSERT INTO exact VALUES (?, ?)", (sketch.exact, kept_id))
        if near_id is not None:
            return Verdict(text_id, near_id, "near duplicate")
        self._keep(text_id, text, sketch)
        return Verdict(text_id, text_id, "")

    def _nearest(self, text: str, sketch: Sketch) -> str | None:
        """Smallest id of the kept texts that are near duplicates."""
        marks = ",".join("?" * len(sketch.bands))
        query = (
            "SELECT id, text FROM kept WHERE number IN "
            f"(SELECT number FROM band WHERE key IN ({marks}))"
        )
        candidates = list(self._scratch.rows(query, sketch.bands))
        if not candidates:
            return None
        grams = shingles(text, self._config.ngram)
        return min(
            (
                str(kept_id)
                for kept_id, kept in candidates
                if jaccard(grams, shingles(as_text(kept), self._config.ngram))
                >= self._config.jaccard
            ),
            default=None,
        )

    def _keep(self, text_id: str, text: str, sketch: Sketch) -> None:
        self._num_kept += 1
        values = (self._num_kept, text_id, as_bytes(text))
        self._scratch.write("INSERT INTO kept VALUES (?, ?, ?)", values)
        # Two bands of one text may share a key only if the salted hash collides.
        self._scratch.write_many(
            "INSERT INTO band VALUES (?, ?)", [(key, self._num_kept) for key in set(sketch.bands)]
        )
