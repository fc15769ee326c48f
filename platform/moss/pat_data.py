"""Preference-aware training data: which conversations are scored, their tags, and the prompts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from moss.chat_rendering import ChatRenderer
from moss.quality import QualityBuckets
from moss.sft_data import Example, with_quality


@dataclass(frozen=True, slots=True)
class PATSample:
    """Conversations for preference-aware training."""

    scored: list[Example]
    """To be tagged by their preference score; every row once."""
    fixed: list[Example]
    """Tagged by their source."""
    counts: dict[str, int]
    """Rows of the scored kind by status: filtered = longer than `max_length`, skipped = beyond
    the number asked for."""


def sample_conversations(
    examples: Sequence[Example],
    renderer: ChatRenderer,
    *,
    num_conversations: int,
    max_length: int,
    seed: int,
) -> PATSample:
    """Choose `num_conversations` to score, by a hash of their ids."""
    fixed = [example for example in examples if example.fixed_quality is not None]
    unique = {example.row_id: example for example in examples if example.fixed_quality is None}
    order = sorted(
        unique.values(), key=lambda e: hashlib.sha256(f"{seed}/pat/{e.row_id}".encode()).digest()
    )
    chosen = order[:num_conversations]
    # One token is left for the tag.
    fitting = [e for e in chosen if len(renderer.render(e.conversation).ids) < max_length]
    counts = {
        "ok": len(fitting),
        "failed": 0,
        "filtered": len(chosen) - len(fitting),
        "skipped": len(order) - len(chosen),
    }
    return PATSample(fitting, fixed, counts)


def tag_examples(
    sample: PATSample, scores: Sequence[float], buckets: QualityBuckets
) -> list[Example]:
    """Every conversation with its quality tag on the last turn."""
    tagged = [
        replace(e, conversation=with_quality(e.conversation, buckets.level(score)))
        for e, score in zip(sample.scored, scores, strict=True)
    ]
    for example in sample.fixed:
        assert example.fixed_quality is not None, "chosen for having one"
        conversation = with_quality(example.conversation, example.fixed_quality)
        tagged.append(replace(example, conversation=conversation))
    return tagged


def scored_rows(
    sample: PATSample, scores: Sequence[float], buckets: QualityBuckets
) -> list[dict[str, object]]:
    """One row per scored conversation: its score and level."""
    return [
        _row(example, step="score", identity=example.row_id)
        | {
            "conversation": example.conversation.to_json(),
            "score": float(score),
            "quality": buckets.level(score),
        }
        for example, score in zip(sample.scored, scores, strict=True)
    ]


def prompt_rows(sample: PATSample) -> list[dict[str, object]]:
    """The prompts that PPO shares: scored conversations with an empty last reply, each once."""
    rows: dict[str, dict[str, object]] = {}
    for example in sample.scored:
        *earlier, last = example.conversation.turns
        open_turn = replace(last, moss="", quality=None)
        conversation = replace(example.conversation, turns=(*earlier, open_turn)).to_json()
        identity = hashlib.sha256(conversation.encode()).hexdigest()[:24]
        row = _row(example, step="prompt", identity=identity)
        rows.setdefault(identity, row | {"conversation": conversation})
    return list(rows.values())


def _row(example: Example, *, step: str, identity: str) -> dict[str, object]:
    return {
        "id": identity,
        "status": "ok",
        "step": step,
        "reason": "",
        "attempts": 1,
        "parents": [example.row_id],
        "model": "",
        "ledger_keys": [],
        "prompt_id": example.prompt_id,
        "language": example.language,
        "category": example.category,
    }
