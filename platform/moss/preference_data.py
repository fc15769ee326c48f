"""Judged pairs as prompts with rendered responses, ready for the preference model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from moss.chat import Conversation
from moss.chat_rendering import ChatRenderer
from moss.errors import DataError
from moss.manifest import check_counts
from moss.preference_accuracy import JudgedPrompt, save_judged

Row = Mapping[str, object]


@dataclass
class _Prompt:
    conversation: Conversation
    responses: dict[str, str] = field(default_factory=dict)
    """Model name to response."""
    verdicts: list[tuple[str, str]] = field(default_factory=list)
    """(winning model, losing model)."""


def collect_judged(
    rows: Sequence[Row], renderer: ChatRenderer, *, split: str, max_length: int
) -> tuple[list[JudgedPrompt], dict[str, int]]:
    """Group the judged pairs of one split by prompt and render each response once.

    Returns: prompts with at least one decided pair, and counts of all rows: ok = used, failed as in
        labelling, filtered = ties, equal texts and responses over `max_length` tokens, skipped =
        the other split.
    Raises:
        DataError: the split has no decided pair.
    """
    count = dict.fromkeys(("ok", "failed", "filtered", "skipped"), 0)
    prompts: dict[str, _Prompt] = {}
    for row in rows:
        status = _status(row, split)
        if status == "ok":
            _add(prompts, row)
        else:
            count[status] += 1
    judged: list[JudgedPrompt] = []
    for prompt_id, prompt in prompts.items():
        rendered = _render(prompt_id, prompt, renderer, max_length=max_length)
        count["ok"] += len(rendered.pairs)
        count["filtered"] += len(prompt.verdicts) - len(rendered.pairs)
        if rendered.pairs:
            judged.append(rendered)
    if not judged:
        raise DataError(
            f"none of {len(rows)} pairs is decided, in split {split!r} and within {max_length} "
            "tokens; look at the report of label_preferences"
        )
    return judged, count


def _status(row: Row, split: str) -> str:
    status = str(row.get("status", "ok"))
    if status != "ok":
        return status
    if row["split"] != split:
        return "skipped"
    decided = row["label"] in ("a", "b") and row["response_a"] != row["response_b"]
    return "ok" if decided else "filtered"


def _add(prompts: dict[str, _Prompt], row: Row) -> None:
    prompt_id = str(row["prompt_id"])
    if prompt_id not in prompts:
        prompts[prompt_id] = _Prompt(Conversation.from_json(str(row["conversation"])))
    prompt = prompts[prompt_id]
    first, second = str(row["model_a"]), str(row["model_b"])
    if first == second:
        raise DataError(f"a pair of prompt {prompt_id} compares {first} with itself (section 7.1)")
    prompt.responses[first] = str(row["response_a"])
    prompt.responses[second] = str(row["response_b"])
    prompt.verdicts.append((first, second) if row["label"] == "a" else (second, first))


def _render(
    prompt_id: str, prompt: _Prompt, renderer: ChatRenderer, *, max_length: int
) -> JudgedPrompt:
    *earlier, last = prompt.conversation.turns
    models: list[str] = []
    sequences: list[list[int]] = []
    for model, response in sorted(prompt.responses.items()):
        turns = (*earlier, replace(last, moss=response))
        ids = renderer.render(replace(prompt.conversation, turns=turns)).ids
        if len(ids) <= max_length:
            models.append(model)
            sequences.append(ids)
    place = {model: index for index, model in enumerate(models)}
    pairs = [
        (place[winner], place[loser])
        for winner, loser in prompt.verdicts
        if winner in place and loser in place
    ]
    return JudgedPrompt(prompt_id, models, sequences, pairs)


@dataclass(frozen=True, slots=True)
class JudgedFiles:
    """Judged prompts on disk for the workers."""

    train_file: str
    validation_file: str
    num_train_pairs: int
    counts: dict[str, dict[str, int]]


def write_judged(
    rows: Sequence[Row], renderer: ChatRenderer, run_folder: str, *, max_length: int
) -> JudgedFiles:
    """Write the train and validation prompts below `<run>/work/`; see `collect_judged`."""
    work = Path(run_folder) / "work"
    work.mkdir(parents=True, exist_ok=True)
    files: dict[str, str] = {}
    counts: dict[str, dict[str, int]] = {}
    pairs: dict[str, int] = {}
    for split in ("train", "validation"):
        judged, count = collect_judged(rows, renderer, split=split, max_length=max_length)
        check_counts(len(rows), count, step=f"{split} pairs")
        files[split] = str(work / f"{split}.jsonl")
        save_judged(files[split], judged)
        counts[f"{split} pairs"] = count
        pairs[split] = sum(len(prompt.pairs) for prompt in judged)
    return JudgedFiles(files["train"], files["validation"], pairs["train"], counts)
