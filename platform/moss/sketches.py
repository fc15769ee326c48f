"""What a text looks like to deduplication: normal form, character n-grams, MinHash sketch.

A sketch is made where the text is, many at once and without state; looking it up is
`moss.duplicate_index`. Hashes, permutations and bands are those of `datasketch` (SHA-1 of each
n-gram, 32-bit affine permutations, seed 1; Leskovec et al., Mining of Massive Datasets, ch. 3),
computed for a whole batch of texts in one array.
"""

from __future__ import annotations

import hashlib
import re
import struct
import unicodedata
from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Self

import numpy as np
import numpy.typing as npt

from moss.config.synthesis import DedupConfig
from moss.errors import DataError

_SPACE = re.compile(r"\s+")
_HASH_SEED = 1
_EXACT_BYTES = 16
_MAX_GRAMS = 4096
"""N-grams hashed in one array; with 128 permutations that is 2 MiB."""


@dataclass(frozen=True, slots=True)
class Sketch:
    """One text, as far as looking it up needs."""

    exact: bytes
    """Digest of the normal form, 16 bytes."""
    bands: tuple[int, ...]
    """One signed 64-bit key per band: texts that share one are candidates for a near duplicate."""

    def pack(self) -> str:
        """The sketch as text, for rows."""
        return b64encode(self.exact + struct.pack(f"<{len(self.bands)}q", *self.bands)).decode()

    @classmethod
    def unpack(cls, packed: str) -> Self:
        """Inverse of `pack`. Raises DataError for anything else."""
        try:
            data = b64decode(packed, validate=True)
            num_bands = (len(data) - _EXACT_BYTES) // 8
            return cls(data[:_EXACT_BYTES], struct.unpack_from(f"<{num_bands}q", data, 16))
        except (ValueError, struct.error) as error:
            raise DataError(f"{packed[:60]!r} is not a packed sketch: {error}") from error


@dataclass(frozen=True, slots=True)
class _Scheme:
    factors: npt.NDArray[np.uint32]
    offsets: npt.NDArray[np.uint32]
    num_bands: int
    band_size: int


def normalize(text: str) -> str:
    """NFKC, case folded, runs of white space to one space."""
    return _SPACE.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def shingles(text: str, size: int) -> frozenset[str]:
    """Character n-grams of the normal form; a shorter text is one n-gram."""
    return _grams(normalize(text), size)


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """Size of the intersection over size of the union."""
    return len(a & b) / len(a | b)


def sketch_texts(texts: Sequence[str], config: DedupConfig) -> list[Sketch]:
    """One sketch per text; the same text has the same one wherever it is made."""
    scheme = _scheme(config.jaccard, config.num_permutations)
    normals = [normalize(text) for text in texts]
    grams = [_grams(normal, config.ngram) for normal in normals]
    return [
        Sketch(_digest(normal), bands)
        for part in _parts(normals, grams)
        for normal, bands in zip(part[0], _bands(part[1], scheme), strict=True)
    ]


def _grams(normal: str, size: int) -> frozenset[str]:
    if len(normal) <= size:
        return frozenset({normal})
    return frozenset([normal[start : start + size] for start in range(len(normal) - size + 1)])


def _parts(
    normals: Sequence[str], grams: Sequence[frozenset[str]]
) -> Iterator[tuple[list[str], list[frozenset[str]]]]:
    """Runs of texts that together have about `_MAX_GRAMS` n-grams."""
    names: list[str] = []
    sets: list[frozenset[str]] = []
    for normal, found in zip(normals, grams, strict=True):
        names.append(normal)
        sets.append(found)
        if sum(map(len, sets)) >= _MAX_GRAMS:
            yield names, sets
            names, sets = [], []
    if sets:
        yield names, sets


def _bands(sets: Sequence[frozenset[str]], scheme: _Scheme) -> Iterator[tuple[int, ...]]:
    sizes = np.fromiter(map(len, sets), dtype=np.int64, count=len(sets))
    hashes_N = _mixed(_hashes(gram for grams in sets for gram in grams))
    permuted_NP = hashes_N[:, None] * scheme.factors + scheme.offsets
    least_TP = np.minimum.reduceat(permuted_NP, np.cumsum(sizes) - sizes, axis=0)
    size = 4 * scheme.band_size
    for row in np.ascontiguousarray(least_TP, dtype="<u4"):
        data = row.tobytes()
        # The band's number is part of what is hashed: equal values in other bands do not count.
        yield tuple(
            struct.unpack(
                "<q",
                hashlib.blake2b(data[at : at + size], digest_size=8, salt=bytes([band])).digest(),
            )[0]
            for band, at in enumerate(range(0, scheme.num_bands * size, size))
        )


def _hashes(grams: Iterator[str]) -> npt.NDArray[np.uint32]:
    sha1 = hashlib.sha1
    joined = b"".join([sha1(gram.encode("utf-8", "surrogatepass")).digest()[:4] for gram in grams])
    return np.frombuffer(joined, dtype="<u4").astype(np.uint32, copy=False)


def _mixed(hashes: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """The finalizer of MurmurHash3, which `datasketch` puts before its affine permutations."""
    hashes = (hashes ^ (hashes >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    hashes = (hashes ^ (hashes >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return hashes ^ (hashes >> np.uint32(16))


def _digest(normal: str) -> bytes:
    data = normal.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, digest_size=_EXACT_BYTES).digest()


@cache
def _scheme(threshold: float, num_permutations: int) -> _Scheme:
    from datasketch import MinHash, MinHashLSH

    lsh = MinHashLSH(threshold=threshold, num_perm=num_permutations)
    plain = MinHash(num_perm=num_permutations, seed=_HASH_SEED, scheme="affine32")
    used = lsh.b * lsh.r
    factors, offsets = (np.asarray(line[:used], dtype=np.uint32) for line in plain.permutations)
    return _Scheme(factors, offsets, num_bands=lsh.b, band_size=lsh.r)
