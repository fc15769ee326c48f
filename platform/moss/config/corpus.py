"""Corpus mix of tokenizer training and pre-training (paper section 3, Table 2)."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from moss.config.base import Config, StageConfig

SourceKind = Literal["bundled", "procedural", "files"]


class CorpusSource(Config):
    """One source of the mix."""

    name: str
    language: Literal["en", "zh", "code"]
    kind: SourceKind
    """`bundled`: the documents of `moss/data`; `procedural`: generated practice text in the same
    small world; `files`: text or JSON Lines files (key `text`) under `path`."""
    tokens: float = Field(gt=0)
    """Share of the mix, in tokens or any common unit; only ratios matter."""
    path: str | None = None

    @model_validator(mode="after")
    def files_have_a_path(self) -> Self:
        """Only `files` reads a path, and it needs one."""
        if (self.kind == "files") != (self.path is not None):
            raise ValueError(
                f"source {self.name!r}: kind {self.kind!r} with path={self.path!r}; "
                "give a path to kind 'files' and to no other"
            )
        return self


class CorpusConfig(Config):
    """A weighted mix of sources."""

    sources: tuple[CorpusSource, ...] = Field(min_length=1)
    num_tokens: int = Field(gt=0)
    """Tokens to draw for one pass."""

    @model_validator(mode="after")
    def names_are_unique(self) -> Self:
        """Reports name sources; two of one name could not be told apart."""
        names = [source.name for source in self.sources]
        if len(set(names)) != len(names):
            raise ValueError(f"source names repeat: {', '.join(names)}")
        return self

    def ratios(self) -> dict[str, float]:
        """Share of each source, summing to 1."""
        total = sum(source.tokens for source in self.sources)
        return {source.name: source.tokens / total for source in self.sources}


class TrainTokenizerConfig(StageConfig):
    """`jobs.train_tokenizer`: base vocabulary, Chinese vocabulary, merge, control tokens."""

    run_id: str = "tokenizer"
    corpus: CorpusConfig
    base_vocab_size: int = Field(ge=257)
    """Entries of the English and code vocabulary; ignored when `base_tokenizer` is given."""
    base_tokenizer: str | None = None
    """`tokenizer.json` of an existing base model whose ids must stay (CodeGen's, in the paper)."""
    chinese_vocab_size: int = Field(60_000, ge=257)
    """Entries of the Chinese vocabulary before merging (paper section 3: 60K)."""
    sample_bytes: int = Field(20_000_000_000, gt=0)
    """Bytes of text sampled per vocabulary (paper section 3: about 20 GB)."""
    control_style: Literal["text", "special"] = "text"
    row_multiple: int = Field(128, gt=0)
    """Embedding rows are padded to a multiple of this."""
