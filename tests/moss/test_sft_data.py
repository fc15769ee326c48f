"""Which conversations are trained on, and that none is lost from the books."""

from __future__ import annotations

from pathlib import Path

import pytest

from moss.chat import Conversation, Turn
from moss.chat_rendering import ChatRenderer
from moss.config.base import StageConfig
from moss.config.quality import QualityConfig
from moss.config.training import ConversationSource
from moss.errors import DataError
from moss.lineage import Run
from moss.meta_instruction import MetaInstruction
from moss.pat_data import prompt_rows, sample_conversations, scored_rows, tag_examples
from moss.quality import QualityBuckets
from moss.sft_data import Example, select_examples, split_held_out, tokenize
from moss.storage import write_rows
from moss.tokenizer import MossTokenizer


def conversation(number: int) -> Conversation:
    turns = (Turn(human="Hi.", moss="Hello!"), Turn(human=f"What is {number}+1?", moss="It is."))
    return Conversation(MetaInstruction("tiny"), turns)


def row(number: int, **changes: object) -> dict[str, object]:
    data: dict[str, object] = {
        "id": f"row-{number}",
        "status": "ok",
        "step": "conversation",
        "reason": "",
        "attempts": 1,
        "prompt_id": f"prompt-{number // 2}",
        "language": "en",
        "category": "chat",
        "split": "sft",
        "conversation": conversation(number).to_json(),
    }
    return data | changes


@pytest.fixture
def source_run(tmp_path: Path) -> str:
    """A finished run: 20 good rows, one failed, one filtered, one of another split."""
    rows = [row(number) for number in range(20)]
    rows += [row(20, status="failed"), row(21, status="filtered"), row(22, split="preference")]
    config = StageConfig(workspace=str(tmp_path), run_id="conversations")
    with Run.open(config, "synthesize_conversations", inputs={}) as run:
        write_rows(run.path("data/conversations.parquet"), rows)
        run.finish(outputs=["data"], counts={"all": {"ok": len(rows)}})
        return run.folder


def select(folder: str, **changes: object) -> list[str]:
    source = ConversationSource.model_validate({"run": "conversations"} | changes)
    return [e.row_id for e in select_examples([source], [folder], seed=0).examples]


def test_every_row_is_accounted_for(source_run: str) -> None:
    source = ConversationSource(run="conversations", max_rows=15)
    selection = select_examples([source], [source_run], seed=0)
    assert len(selection.examples) == 15
    assert selection.counts["select conversations"] == {
        "ok": 15,
        "failed": 1,
        "filtered": 2,
        "skipped": 5,
    }


def test_a_cap_takes_the_same_rows_each_time_and_a_subset_of_a_higher_cap(source_run: str) -> None:
    assert select(source_run, max_rows=5) == select(source_run, max_rows=5)
    assert set(select(source_run, max_rows=5)) < set(select(source_run, max_rows=10))


def test_weights_repeat_and_thin_out(source_run: str) -> None:
    assert len(select(source_run, weight=2.0)) == 40
    assert 0 < len(select(source_run, weight=0.5)) < 20


def test_a_source_without_a_usable_row_is_named(tmp_path: Path) -> None:
    config = StageConfig(workspace=str(tmp_path), run_id="empty")
    with Run.open(config, "synthesize_conversations", inputs={}) as run:
        write_rows(run.path("data/conversations.parquet"), [row(0, status="failed")])
        run.finish(outputs=["data"], counts={"all": {"failed": 1}})
    with pytest.raises(DataError, match="no conversation with status ok and split sft among 1"):
        select(run.folder)


def test_no_prompt_is_both_trained_on_and_held_out(source_run: str) -> None:
    source = ConversationSource(run="conversations", weight=2.0)
    examples = select_examples([source], [source_run], seed=0).examples
    train, held_out = split_held_out(examples, 3, seed=0)
    assert len(train) + len(held_out) == len(examples)
    assert held_out
    assert not {e.prompt_id for e in train} & {e.prompt_id for e in held_out}


@pytest.fixture(scope="module")
def renderer(tiny_checkpoint: Path) -> ChatRenderer:
    return ChatRenderer(MossTokenizer.load(tiny_checkpoint))


def examples(num: int) -> list[Example]:
    return [Example(f"row-{n}", f"prompt-{n}", "en", "chat", conversation(n)) for n in range(num)]


def test_too_long_a_conversation_is_counted_not_cut(renderer: ChatRenderer) -> None:
    short, long = conversation(1), conversation(2)
    stretched = Conversation(long.meta, (*long.turns, Turn(human="x " * 300, moss="y")))
    pair = [Example("a", "a", "en", "chat", short), Example("b", "b", "en", "chat", stretched)]
    length = len(renderer.render(short).ids)
    sequences, counts = tokenize(pair, renderer, max_length=length)
    assert counts == {"ok": 1, "failed": 0, "filtered": 1, "skipped": 0}
    assert sequences.sequence(0)[0].tolist() == renderer.render(short).ids
    with pytest.raises(DataError, match="all 1 conversations are longer than max_length=3"):
        tokenize(pair[1:], renderer, max_length=3)


def test_pat_tags_the_last_turn_only_and_shares_its_prompts(renderer: ChatRenderer) -> None:
    fixed = Example("tool", "tool", "en", "tool", conversation(99), fixed_quality=100)
    sample = sample_conversations(
        [*examples(30), *examples(30), fixed],
        renderer,
        num_conversations=24,
        max_length=10_000,
        seed=0,
    )
    assert len({e.row_id for e in sample.scored}) == len(sample.scored) == 24
    assert sample.counts == {"ok": 24, "failed": 0, "filtered": 0, "skipped": 6}
    scores = [float(n) for n in range(24)]
    buckets = QualityBuckets.fit(scores, QualityConfig())
    tagged = tag_examples(sample, scores, buckets)
    assert [e.conversation.turns[-1].quality for e in tagged[:-1]] == [
        buckets.level(score) for score in scores
    ]
    assert tagged[-1].conversation.turns[-1].quality == 100
    assert all(turn.quality is None for e in tagged for turn in e.conversation.turns[:-1])
    rows = scored_rows(sample, scores, buckets)
    assert [r["score"] for r in rows] == scores
    prompts = prompt_rows(sample)
    assert len({p["id"] for p in prompts}) == len(prompts) == 24
    for prompt in prompts:
        last = Conversation.from_json(str(prompt["conversation"])).turns[-1]
        assert (last.moss, last.quality) == ("", None)
        assert last.human.startswith("What is")
