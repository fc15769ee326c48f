"""Byte-level BPE: training, extension by a second language, and control tokens (paper section 3).

The base vocabulary is trained on English and code. A Chinese vocabulary is trained on its own and
its merges are appended in rank order, leaving out what holds only ASCII, so that every old id and
the encoding of every ASCII text stay as they were. Digits are single tokens. Control tokens come
last; `encode` never yields one, whatever the text says.

Two styles of control tokens: `text` follows the released checkpoints (headers are ordinary text,
only end markers are tokens); `special` makes each header, end marker and quality tag one token,
which keeps the turns of a tiny model short.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from moss.chat import END_MARKERS, HEADERS, quality_tag
from moss.errors import DataError
from moss.types import QUALITY_LEVELS, SECTIONS

ControlStyle = Literal["text", "special"]
PAD_TOKEN: Final = "<pad>"
EOS_TOKEN: Final = "<|endoftext|>"
CONTROL_FILE: Final = "moss_tokenizer.json"


@dataclass(frozen=True, slots=True)
class MossTokenizer:
    """A trained tokenizer with its control tokens; see the module for the two styles."""

    tokenizer: Tokenizer
    style: ControlStyle
    controls: dict[str, int]
    """Control text (`<|MOSS|>:`, `<eom>\\n`, ` <quality: 100>`) to token id; a control that the
    style writes as ordinary text is absent."""
    row_multiple: int = 64
    """Embedding rows are padded to a multiple of this."""

    @property
    def vocab_size(self) -> int:
        """Number of tokens, control tokens included."""
        return int(self.tokenizer.get_vocab_size())

    @property
    def padded_vocab_size(self) -> int:
        """Embedding rows a model for this tokenizer has."""
        return -(-self.vocab_size // self.row_multiple) * self.row_multiple

    @property
    def pad_id(self) -> int:
        """Id that fills masked positions."""
        return self.controls[PAD_TOKEN]

    @property
    def eos_id(self) -> int:
        """Id between pre-training documents."""
        return self.controls[EOS_TOKEN]

    def encode(self, text: str) -> list[int]:
        """Token ids of ordinary text; control strings in it are encoded as their characters."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids and the character range (start, end) of each."""
        encoding = self.tokenizer.encode(text, add_special_tokens=False)
        return list(encoding.ids), list(encoding.offsets)

    def encode_many(self, texts: list[str]) -> list[list[int]]:
        """`encode` for many texts at once, in the tokenizer's own threads."""
        encodings = self.tokenizer.encode_batch(texts, add_special_tokens=False)
        return [list(encoding.ids) for encoding in encodings]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of token ids, control tokens included; invalid UTF-8 becomes U+FFFD."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json`, a Transformers `tokenizer_config.json` and the control map."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save(str(folder / "tokenizer.json"))
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "pad_token": PAD_TOKEN,
            "eos_token": EOS_TOKEN,
            "bos_token": EOS_TOKEN,
            "split_special_tokens": True,
            "clean_up_tokenization_spaces": False,
        }
        own = {"style": self.style, "controls": self.controls, "row_multiple": self.row_multiple}
        for name, data in (("tokenizer_config.json", config), (CONTROL_FILE, own)):
            (folder / name).write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> MossTokenizer:
        """Read what `save` wrote.

        Raises:
            DataError: a file is missing or not a tokenizer of ours.
        """
        folder = Path(folder)
        try:
            own = json.loads((folder / CONTROL_FILE).read_text())
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except (OSError, ValueError) as error:
            raise DataError(
                f"{folder} holds no tokenizer ({error}); train one with "
                "`python -m jobs.train_tokenizer` or check the path"
            ) from error
        tokenizer.encode_special_tokens = True
        return cls(tokenizer, own["style"], own["controls"], own["row_multiple"])


def train_bpe(texts: Iterable[str], *, vocab_size: int) -> Tokenizer:
    """Byte-level BPE with single-digit tokens; exactly `vocab_size` entries.

    Raises:
        DataError: the texts are too few for so many entries.
    """
    tokenizer = _byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != vocab_size:
        raise DataError(
            f"the corpus yields {tokenizer.get_vocab_size()} entries, not vocab_size={vocab_size}; "
            "give more text or ask for fewer"
        )
    return tokenizer


def extend_vocabulary(base: Tokenizer, extra: Tokenizer) -> Tokenizer:
    """Append the non-ASCII entries of `extra` to `base`; ids and merges of `base` stay.

    An entry whose parts are not both in the growing vocabulary cannot be reached and is left out.
    """
    base_model = json.loads(base.to_str())["model"]
    vocab: dict[str, int] = dict(base_model["vocab"])
    merges = [tuple(merge) for merge in base_model["merges"]]
    ascii_bytes = _ascii_alphabet()
    for left, right in _merges(extra):
        merged = left + right
        if merged in vocab or set(merged) <= ascii_bytes:
            continue
        if left in vocab and right in vocab:
            vocab[merged] = len(vocab)
            merges.append((left, right))
    return _byte_level(models.BPE(vocab=vocab, merges=merges))


def add_controls(
    tokenizer: Tokenizer, *, style: ControlStyle, row_multiple: int = 64
) -> MossTokenizer:
    """Append the control tokens of a style, after all ordinary entries."""
    names = control_names(style)
    tokenizer.add_special_tokens(names)
    tokenizer.encode_special_tokens = True
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    controls = {name: vocab[name] for name in names}
    return MossTokenizer(tokenizer, style, controls, row_multiple)


def control_names(style: ControlStyle) -> list[str]:
    """Text of the control tokens of a style, in the order of their ids."""
    names = [PAD_TOKEN, EOS_TOKEN]
    if style == "text":
        return names + [END_MARKERS[section] for section in SECTIONS]
    names += [HEADERS[section] for section in SECTIONS]
    names += [f"{END_MARKERS[section]}\n" for section in SECTIONS]
    return names + [quality_tag(quality) for quality in QUALITY_LEVELS]


def _byte_level(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _merges(tokenizer: Tokenizer) -> Iterator[tuple[str, str]]:
    yield from json.loads(tokenizer.to_str())["model"]["merges"]


def _ascii_alphabet() -> set[str]:
    """The byte-level symbols of the 128 ASCII bytes."""
    encoder = _byte_level(models.BPE()).pre_tokenizer
    return {
        symbol
        for byte in range(128)
        for piece, _ in encoder.pre_tokenize_str(chr(byte))
        for symbol in piece
    }
