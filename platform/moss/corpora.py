"""Corpus mixing: documents of several sources in fixed token ratios, as one token stream."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import resources

import fsspec
import numpy as np
from numpy.typing import NDArray

from moss.config.corpus import CorpusConfig, CorpusSource
from moss.errors import DataError
from moss.procedural import procedural_documents
from moss.tokenizer import MossTokenizer

_BATCH_DOCUMENTS = 256
"""Documents encoded at once: large enough to use the tokenizer's batch path."""


@dataclass(frozen=True, slots=True)
class TokenStream:
    """Documents joined by the end-of-text token."""

    tokens: NDArray[np.int32]
    """(num_tokens,) token ids."""
    tokens_by_source: dict[str, int]


def documents(source: CorpusSource, seed: int) -> Iterator[str]:
    """Endless documents of one source: bundled and file sources repeat in a new order each pass.

    Raises:
        DataError: the source holds no document.
    """
    if source.kind == "procedural":
        return procedural_documents(source.language, seed)
    rng = random.Random(f"{seed}/{source.name}")
    return _bundled(source, rng) if source.kind == "bundled" else _from_files(source, rng)


def sample_texts(
    config: CorpusConfig, *, languages: set[str], num_bytes: int, seed: int
) -> Iterator[str]:
    """About `num_bytes` bytes of documents in some languages, in the ratios of the mix."""
    sources = [source for source in config.sources if source.language in languages]
    if not sources:
        raise DataError(f"no corpus source has language {' or '.join(sorted(languages))}")
    pick = _FairPicker(sources)
    readers = {source.name: documents(source, seed) for source in sources}
    taken = 0
    while taken < num_bytes:
        name = pick.next()
        text = next(readers[name])
        size = len(text.encode())
        pick.charge(name, size)
        taken += size
        yield text


def load_token_stream(
    config: CorpusConfig,
    tokenizer: MossTokenizer,
    seed: int,
    on_progress: Callable[[int], None] = lambda _: None,
) -> TokenStream:
    """Exactly `config.num_tokens` tokens, each source within a document of its ratio.

    Args:
        on_progress: called with the number of tokens drawn so far.
    """
    pick = _FairPicker(config.sources)
    readers = {source.name: documents(source, seed) for source in config.sources}
    ready: dict[str, list[list[int]]] = {name: [] for name in readers}
    pieces: list[int] = []
    while len(pieces) < config.num_tokens:
        name = pick.next()
        if not ready[name]:
            batch = [next(readers[name]) for _ in range(_BATCH_DOCUMENTS)]
            ready[name] = tokenizer.encode_many(batch)[::-1]
            on_progress(len(pieces))
        ids = ready[name].pop()
        pieces += [*ids, tokenizer.eos_id]
        pick.charge(name, len(ids) + 1)
    tokens = np.asarray(pieces[: config.num_tokens], dtype=np.int32)
    return TokenStream(tokens, {name: int(count) for name, count in pick.charged.items()})


class _FairPicker:
    """Always serves the source that is furthest behind its share; deterministic."""

    def __init__(self, sources: tuple[CorpusSource, ...] | list[CorpusSource]) -> None:
        self.weights = {source.name: source.tokens for source in sources}
        self.charged = dict.fromkeys(self.weights, 0.0)

    def next(self) -> str:
        return min(self.weights, key=lambda name: (self.charged[name] + 1) / self.weights[name])

    def charge(self, name: str, amount: int) -> None:
        self.charged[name] += amount


def _bundled(source: CorpusSource, rng: random.Random) -> Iterator[str]:
    file = resources.files("moss") / "data" / "corpus.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line]
    pool = [row["text"] for row in rows if row["language"] == source.language]
    if not pool:
        raise DataError(f"source {source.name!r}: no bundled document in {source.language!r}")
    while True:
        rng.shuffle(pool)
        yield from pool


def _from_files(source: CorpusSource, rng: random.Random) -> Iterator[str]:
    """One document a line of JSON Lines files, one a file otherwise; compression by file name."""
    files = list(fsspec.open_files(source.path, mode="rt", encoding="utf-8", compression="infer"))
    while True:
        rng.shuffle(files)
        found = False
        for file in files:
            with file as stream:
                lines = ".jsonl" in file.path.rsplit("/", 1)[-1]
                for text in _json_texts(stream, file.path) if lines else (stream.read(),):
                    found = True
                    yield text
        if not found:
            raise DataError(
                f"corpus source {source.name!r}: no document under {source.path!r}; check the path"
            )


def _json_texts(lines: Iterable[str], path: str) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield str(json.loads(line)["text"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} line {number} is not JSON with a key 'text'") from error
