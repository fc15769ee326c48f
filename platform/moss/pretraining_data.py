"""The token stream of a pre-training run, drawn once and memory-mapped by every worker."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from moss.atomic import replace_file
from moss.config.corpus import CorpusConfig
from moss.corpora import load_token_stream
from moss.progress import Progress
from moss.tokenizer import MossTokenizer


def write_stream(
    corpus: CorpusConfig, tokenizer_folder: str, run_folder: str, *, seed: int
) -> tuple[str, dict[str, int]]:
    """Draw the mix into `<run>/work/stream.npy`, unless an earlier attempt did.

    Returns: the file, and the tokens of each source in it.
    """
    work = Path(run_folder) / "work"
    work.mkdir(parents=True, exist_ok=True)
    stream_file, record_file = work / "stream.npy", work / "stream.json"
    if not record_file.is_file():
        with Progress("draw corpus", corpus.num_tokens, unit="tokens") as progress:
            stream = load_token_stream(
                corpus,
                MossTokenizer.load(tokenizer_folder),
                seed,
                lambda done: progress.update(done=done),
            )
            progress.update(done=len(stream.tokens))
        np.save(stream_file, stream.tokens)
        replace_file(record_file, json.dumps(stream.tokens_by_source).encode())
    by_source: dict[str, int] = json.loads(record_file.read_text())
    return str(stream_file), by_source
