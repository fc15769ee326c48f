"""TextRank: the most central sentences of a text (Mihalcea and Tarau 2004, sections 2 and 4).

Sentences are the nodes of a graph; an edge weighs the words two sentences share over the sum of
the logarithms of their lengths; PageRank with damping 0.85 scores the nodes. With a query, the
random jump prefers sentences that share words with it (as topic-sensitive PageRank does), so that a
page is summarized towards what was asked. English words are letters and digits; Chinese is cut by
rjieba.

Deviation from the paper: at most `MAX_SENTENCES` sentences are ranked, the first ones of the text,
so that a long page costs bounded time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import numpy as np
import rjieba
from numpy.typing import NDArray
from scipy import sparse

DAMPING: Final = 0.85
MAX_SENTENCES: Final = 800
_MAX_ITERATIONS: Final = 100
_TOLERANCE: Final = 1e-6
_QUERY_WEIGHT: Final = 0.9
"""Share of the random jump that a query steers."""

_CJK = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")
_WORD = re.compile(r"[A-Za-z0-9]+(?:'[a-z]+)?")
_BOUNDARY = re.compile(
    r"(?<=[。！？；])(?![\"'”’」』）)])"  # after a closing mark, unless a quote still closes
    r"|(?<=[。！？][\"'”’」』）)])"
    r"|(?:(?<=[.!?])|(?<=[.!?][\"'”’)]))\s+(?=[A-Z0-9\"'“‘(\u3400-\u9fff])"
    r"|\n+"
)
_ABBREVIATION = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|Prof|St|vs|etc|e\.g|i\.e|No|[A-Z])\.$")
_ENGLISH_STOP_WORDS: Final = (
    "a an the of to in on at by for from with and or is are was were be been it its this that as "
    "who what which where when how why does do did can"
)
_CHINESE_STOP_WORDS: Final = (
    "的 了 在 是 和 与 也 有 就 不 都 而 及 着 或 一个 什么 谁 哪 哪里 吗 呢 多少 怎么"
)
_STOP_WORDS: Final = frozenset(f"{_ENGLISH_STOP_WORDS} {_CHINESE_STOP_WORDS}".split())


def split_sentences(text: str) -> list[str]:
    """Sentences of English and Chinese text, in order, stripped, none empty."""
    sentences: list[str] = []
    for piece in _BOUNDARY.split(text):
        piece = (piece or "").strip()
        if not piece:
            continue
        if sentences and _ABBREVIATION.search(sentences[-1]):
            sentences[-1] += f" {piece}"
        else:
            sentences.append(piece)
    return sentences


def words_of(text: str) -> list[str]:
    """Lower-case words that carry meaning; Chinese text is cut into words."""
    lowered = text.lower()
    if _CJK.search(lowered):
        words = [word.strip() for word in rjieba.cut(lowered)]
        words = [word for word in words if _CJK.search(word) or _WORD.fullmatch(word)]
    else:
        words = _WORD.findall(lowered)
    return [word for word in words if word not in _STOP_WORDS]


def rank_sentences(sentences: Sequence[str], query: str | None = None) -> NDArray[np.float64]:
    """Score of each sentence, (N,), summing to one; higher is more central.

    Args:
        sentences: N sentences, at most `MAX_SENTENCES`.
        query: what the summary should be about, or None.
    """
    num = len(sentences)
    if num == 0:
        return np.zeros(0)
    words = [words_of(sentence) for sentence in sentences]
    incidence = _incidence(words)
    transition, dangling = _transition(incidence, np.array([len(item) for item in words]))
    jump = _jump(words, query)
    scores = np.full(num, 1 / num)
    for _ in range(_MAX_ITERATIONS):
        spread = transition.T @ scores + scores[dangling].sum() * jump
        updated = (1 - DAMPING) * jump + DAMPING * spread
        if np.abs(updated - scores).sum() < _TOLERANCE:
            return np.asarray(updated)
        scores = updated
    return scores


def _incidence(words: Sequence[Sequence[str]]) -> sparse.csr_matrix:
    """(N, W) with a one where sentence n holds word w."""
    columns: dict[str, int] = {}
    pairs = [
        (row, columns.setdefault(word, len(columns)))
        for row, item in enumerate(words)
        for word in sorted(set(item))
    ]
    rows, cols = zip(*pairs, strict=True) if pairs else ((), ())
    shape = (len(words), max(len(columns), 1))
    return sparse.csr_matrix((np.ones(len(pairs)), (rows, cols)), shape=shape)


def _transition(
    incidence: sparse.csr_matrix, lengths: NDArray[np.int64]
) -> tuple[sparse.csr_matrix, NDArray[np.bool_]]:
    """Row-stochastic (N, N) matrix of overlap similarity, and which rows have no edge."""
    shared = (incidence @ incidence.T).tocoo()
    keep = shared.row != shared.col
    rows, cols, common = shared.row[keep], shared.col[keep], shared.data[keep]
    logs = np.log(np.maximum(lengths, 1))
    # One-word sentences have log 0: the floor keeps a pair of them finite.
    weights = common / np.maximum(logs[rows] + logs[cols], np.log(2))
    graph = sparse.csr_matrix((weights, (rows, cols)), shape=shared.shape)
    totals = np.asarray(graph.sum(axis=1)).ravel()
    dangling = totals == 0
    inverse = sparse.diags(1 / np.where(dangling, 1, totals))
    return (inverse @ graph).tocsr(), dangling


def _jump(words: Sequence[Sequence[str]], query: str | None) -> NDArray[np.float64]:
    """(N,) where the random walk restarts: evenly, or mostly at sentences near the query."""
    even = np.full(len(words), 1 / len(words))
    wanted = set(words_of(query)) if query else set()
    hits = np.array([len(wanted & set(item)) / (1 + np.log1p(len(item))) for item in words])
    if hits.sum() == 0:
        return even
    return np.asarray(_QUERY_WEIGHT * hits**2 / (hits**2).sum() + (1 - _QUERY_WEIGHT) * even)


def summarize(
    text: str, *, max_sentences: int = 3, max_chars: int = 400, query: str | None = None
) -> str:
    """The best sentences in the order of the text, at most `max_chars` characters.

    A sentence that does not fit is left out for the next best; when none fits, the best one is cut.
    """
    sentences = split_sentences(text)[:MAX_SENTENCES]
    if not sentences:
        return ""
    scores = rank_sentences(sentences, query)
    order = sorted(range(len(sentences)), key=lambda index: (-scores[index], index))
    joiner = "" if _CJK.search(sentences[0]) else " "
    chosen: list[int] = []
    for index in order:
        candidate = joiner.join(sentences[item] for item in sorted([*chosen, index]))
        if len(candidate) <= max_chars:
            chosen.append(index)
        if len(chosen) == max_sentences:
            break
    if not chosen:
        return sentences[order[0]][:max_chars]
    return joiner.join(sentences[index] for index in sorted(chosen))
