"""The tokenizer stage: what is trained on what, and what it gains (paper section 3)."""

from __future__ import annotations

from collections.abc import Iterator

from tokenizers import Tokenizer

from moss.config.corpus import TrainTokenizerConfig
from moss.corpora import sample_texts
from moss.errors import DataError
from moss.tokenizer import MossTokenizer, add_controls, extend_vocabulary, train_bpe

_REPORT_BYTES = 200_000
"""Fresh text on which bytes per token are measured."""


def train_tokenizer(config: TrainTokenizerConfig) -> tuple[MossTokenizer, dict[str, float]]:
    """Train base and Chinese vocabularies, merge, add control tokens; with a report.

    Report: vocabulary size, share of tokens that hold a Chinese character, and bytes per token on
    Chinese and English text with the base vocabulary alone and with the merged one.
    """
    base = _base_tokenizer(config)
    chinese = train_bpe(_texts(config, {"zh"}), vocab_size=config.chinese_vocab_size)
    merged = extend_vocabulary(base, chinese)
    tokenizer = add_controls(
        Tokenizer.from_str(merged.to_str()),
        style=config.control_style,
        row_multiple=config.row_multiple,
    )
    zh = "\n".join(_texts(config, {"zh"}, num_bytes=_REPORT_BYTES, salt=1))
    en = "\n".join(_texts(config, {"en"}, num_bytes=_REPORT_BYTES, salt=1))
    pieces = [merged.decode([index]) for index in range(merged.get_vocab_size())]
    return tokenizer, {
        "vocab_size": tokenizer.vocab_size,
        "base_vocab_size": base.get_vocab_size(),
        "cjk_share": sum(map(_holds_cjk, pieces)) / len(pieces),
        "zh_bytes_per_token_base": _bytes_per_token(base, zh),
        "zh_bytes_per_token": _bytes_per_token(merged, zh),
        "en_bytes_per_token_base": _bytes_per_token(base, en),
        "en_bytes_per_token": _bytes_per_token(merged, en),
    }


def _base_tokenizer(config: TrainTokenizerConfig) -> Tokenizer:
    if config.base_tokenizer is None:
        return train_bpe(_texts(config, {"en", "code"}), vocab_size=config.base_vocab_size)
    try:
        return Tokenizer.from_file(config.base_tokenizer)
    except Exception as error:  # the tokenizers library raises bare Exception
        raise DataError(f"base_tokenizer {config.base_tokenizer!r}: {error}") from error


def _texts(
    config: TrainTokenizerConfig, languages: set[str], num_bytes: int | None = None, salt: int = 0
) -> Iterator[str]:
    size = num_bytes or config.sample_bytes
    seed = config.seed + salt
    return sample_texts(config.corpus, languages=languages, num_bytes=size, seed=seed)


def _bytes_per_token(tokenizer: Tokenizer, text: str) -> float:
    return len(text.encode()) / len(tokenizer.encode(text, add_special_tokens=False).ids)


def _holds_cjk(piece: str) -> bool:
    return any("\u4e00" <= character <= "\u9fff" for character in piece)
