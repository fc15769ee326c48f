"""Judged pairs to prompts with rendered responses, and accuracy per model pair."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
import torch

from moss.chat import Conversation, Turn
from moss.chat_rendering import ChatRenderer
from moss.errors import DataError
from moss.meta_instruction import MetaInstruction
from moss.models import PreferenceModel
from moss.preference_accuracy import load_judged, measure_accuracy, save_judged
from moss.preference_data import collect_judged
from moss.tokenizer import MossTokenizer

MODELS = ["text-ada-001", "gpt-3.5-turbo", "MOSS-SFT"]


def pair(prompt: int, a: str, b: str, label: str, **changes: object) -> dict[str, object]:
    turns = (Turn(human=f"What is {prompt}+1?", moss=""),)
    data: dict[str, object] = {
        "status": "ok",
        "prompt_id": f"prompt-{prompt}",
        "conversation": Conversation(MetaInstruction("tiny"), turns).to_json(),
        "model_a": a,
        "model_b": b,
        "response_a": f"{a} says {prompt}.",
        "response_b": f"{b} says {prompt}.",
        "label": label,
        "split": "train" if prompt < 4 else "validation",
    }
    return data | changes


ROWS = [pair(n, a, b, "b" if n % 2 else "a") for n in range(6) for a, b in combinations(MODELS, 2)]


@pytest.fixture(scope="module")
def renderer(tiny_checkpoint: Path) -> ChatRenderer:
    return ChatRenderer(MossTokenizer.load(tiny_checkpoint))


def test_each_response_is_rendered_once_and_stands_in_all_its_pairs(renderer: ChatRenderer) -> None:
    judged, counts = collect_judged(ROWS, renderer, split="train", max_length=128)
    assert [p.prompt_id for p in judged] == [f"prompt-{n}" for n in range(4)]
    assert all(len(p.sequences) == 3 and len(p.pairs) == 3 for p in judged)
    assert counts == {"ok": 12, "failed": 0, "filtered": 0, "skipped": 6}
    winner, loser = judged[0].pairs[0]
    assert (judged[0].models[winner], judged[0].models[loser]) == ("text-ada-001", "gpt-3.5-turbo")
    end = renderer.end_id("moss")
    assert all(end in ids[-2:] for p in judged for ids in p.sequences)


def test_ties_equal_texts_and_failures_are_counted_not_trained_on(renderer: ChatRenderer) -> None:
    odd = [
        pair(0, MODELS[0], MODELS[1], label="tie"),
        pair(0, MODELS[0], MODELS[1], label="a", response_a="same", response_b="same"),
        pair(1, MODELS[0], MODELS[1], label="invalid", status="failed"),
        pair(2, MODELS[0], MODELS[1], label="a", response_b="long " * 200),
    ]
    judged, counts = collect_judged([*ROWS, *odd], renderer, split="train", max_length=128)
    assert sum(len(p.pairs) for p in judged) == counts["ok"]
    assert sum(counts.values()) == len(ROWS) + len(odd)
    assert counts["failed"] == 1
    assert counts["filtered"] >= 3


def test_a_model_is_never_compared_with_itself(renderer: ChatRenderer) -> None:
    with pytest.raises(DataError, match="compares MOSS-SFT with itself"):
        collect_judged(
            [pair(0, "MOSS-SFT", "MOSS-SFT", "a", response_b="other")],
            renderer,
            split="train",
            max_length=128,
        )


def test_a_split_without_a_decided_pair_is_refused(renderer: ChatRenderer) -> None:
    with pytest.raises(DataError, match="none of 1 pairs is decided"):
        collect_judged(
            [pair(0, MODELS[0], MODELS[1], label="tie")], renderer, split="train", max_length=99
        )


def test_accuracy_per_model_pair_equals_a_plain_count(
    renderer: ChatRenderer, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    judged, _ = collect_judged(ROWS, renderer, split="train", max_length=128)
    save_judged(tmp_path / "judged.jsonl", judged)
    assert load_judged(tmp_path / "judged.jsonl") == judged
    model = PreferenceModel.from_policy(tiny_checkpoint, seed=3).eval()
    report = measure_accuracy(model, judged, token_budget=256)
    right: dict[str, list[bool]] = {}
    with torch.no_grad():
        for prompt in judged:
            for winner, loser in prompt.pairs:
                a, b = (
                    float(model(torch.tensor([ids]), torch.ones(1, len(ids))))
                    for ids in (prompt.sequences[winner], prompt.sequences[loser])
                )
                names = " / ".join(sorted((prompt.models[winner], prompt.models[loser])))
                right.setdefault(names, []).append(a > b)
    assert report.by_model_pair == {
        names: (sum(found) / len(found), len(found)) for names, found in sorted(right.items())
    }
    assert report.num_pairs == 12
    assert report.score_std > 0
