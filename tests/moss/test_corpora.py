"""Corpus mixing: ratios hold, streams repeat from a seed, files are read or named."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from moss.config import load_config
from moss.config.corpus import CorpusConfig, CorpusSource, TrainTokenizerConfig
from moss.corpora import documents, load_token_stream, sample_texts
from moss.errors import ConfigError, DataError
from moss.tokenizer import add_controls, train_bpe

CONFIGS = Path("jobs/configs/train_tokenizer")
MIX = CorpusConfig(
    num_tokens=60_000,
    sources=(
        CorpusSource(name="bundled-en", language="en", kind="bundled", tokens=2),
        CorpusSource(name="practice-en", language="en", kind="procedural", tokens=5),
        CorpusSource(name="practice-code", language="code", kind="procedural", tokens=1),
        CorpusSource(name="practice-zh", language="zh", kind="procedural", tokens=2),
    ),
)
TOKENIZER = add_controls(
    Tokenizer.from_str(
        train_bpe(
            sample_texts(MIX, languages={"en", "zh"}, num_bytes=30_000, seed=1), vocab_size=400
        ).to_str()
    ),
    style="special",
)


def test_the_stream_holds_each_source_within_half_a_point_of_its_ratio() -> None:
    stream = load_token_stream(MIX, TOKENIZER, seed=3)
    assert len(stream.tokens) == MIX.num_tokens
    total = sum(stream.tokens_by_source.values())
    for name, ratio in MIX.ratios().items():
        assert abs(stream.tokens_by_source[name] / total - ratio) < 0.005


def test_a_seed_gives_the_same_stream_again() -> None:
    first, second, other = (
        load_token_stream(MIX, TOKENIZER, seed=seed).tokens for seed in (3, 3, 4)
    )
    assert (first == second).all()
    assert (first != other).any()


def test_the_papers_mix_adds_up_to_table_2() -> None:
    config = load_config(TrainTokenizerConfig, CONFIGS / "paper.yaml")
    billions = sum(source.tokens for source in config.corpus.sources)
    assert billions == pytest.approx(677.1)
    shares = [round(100 * ratio, 1) for ratio in config.corpus.ratios().values()]
    assert shares == [57.1, 17.6, 10.6, 0.7, 14.1]


def test_json_lines_files_are_read_and_repeat(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"document {number}"}) for number in range(3)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    source = CorpusSource(
        name="files", language="en", kind="files", path=f"{tmp_path}/*.jsonl", tokens=1
    )
    reader = documents(source, seed=1)
    drawn = [next(reader) for _ in range(6)]
    assert sorted(drawn) == sorted([f"document {number}" for number in range(3)] * 2)


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n{"texts": 1}\n')
    source = CorpusSource(
        name="files", language="en", kind="files", path=f"{tmp_path}/a.jsonl", tokens=1
    )
    with pytest.raises(DataError, match=r"a\.jsonl line 2"):
        list(zip(range(3), documents(source, seed=1), strict=False))


def test_a_path_without_documents_is_an_error(tmp_path: Path) -> None:
    source = CorpusSource(
        name="files", language="en", kind="files", path=f"{tmp_path}/*.jsonl", tokens=1
    )
    with pytest.raises((DataError, FileNotFoundError)):
        next(documents(source, seed=1))


def test_a_path_belongs_to_files_only() -> None:
    with pytest.raises(ValueError, match="give a path to kind 'files'"):
        CorpusSource(name="x", language="en", kind="bundled", path="a", tokens=1)


def test_repeated_source_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="names repeat"):
        load_config(
            TrainTokenizerConfig,
            CONFIGS / "tiny.yaml",
            [
                "corpus.sources=[{name: a, language: en, kind: bundled, tokens: 1}, "
                "{name: a, language: zh, kind: bundled, tokens: 1}]"
            ],
        )
