"""Conversations of several synthesis runs as one training set."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from moss.chat import Conversation
from moss.chat_rendering import ChatRenderer
from moss.config.training import ConversationSource
from moss.errors import DataError
from moss.manifest import check_counts
from moss.outputs import read_named_rows
from moss.packing import TokenSequences

Row = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Example:
    """One conversation to train on."""

    row_id: str
    """Id of the row it came from; repeated when the source's weight exceeds 1."""
    prompt_id: str
    language: str
    category: str
    conversation: Conversation
    fixed_quality: int | None = None
    """Tag of the source, where it has one."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Chosen conversations, and where the others went."""

    examples: list[Example]
    counts: dict[str, dict[str, int]]
    """Source run to status to rows: ok = chosen, failed = failed in synthesis, filtered = not for
    training, skipped = over the cap or the weight."""


def select_examples(
    sources: Sequence[ConversationSource], folders: Sequence[str], *, seed: int
) -> Selection:
    """Read the runs and choose: rows with status ok of the `sft` split, capped and weighted.

    Args:
        folders: run folder of each source.
    Raises:
        DataError: a source has no usable conversation.
    """
    examples: list[Example] = []
    counts: dict[str, dict[str, int]] = {}
    for source, folder in zip(sources, folders, strict=True):
        rows = read_named_rows(folder, source.file)
        chosen, count = _choose(rows, source, seed=seed)
        if not chosen:
            raise DataError(
                f"{folder}/{source.file} has no conversation with status ok and split sft among "
                f"{len(rows)} rows; look at the report of its run"
            )
        check_counts(len(rows), count, step=f"select {source.run}")
        counts[f"select {source.run}"] = count
        examples += chosen
    return Selection(examples, counts)


def split_held_out(
    examples: Sequence[Example], num_held_out: int, *, seed: int
) -> tuple[list[Example], list[Example]]:
    """Training and held-out examples; all conversations of a prompt are on one side.

    At most a tenth is held out.
    """
    limit = min(num_held_out, len(examples) // 10)
    held_out: list[Example] = []
    prompts: set[str] = set()
    for example in sorted(examples, key=lambda e: _share(e.prompt_id, seed, "held-out")):
        if example.prompt_id in prompts or len(prompts) < limit:
            prompts.add(example.prompt_id)
            held_out.append(example)
    return [e for e in examples if e.prompt_id not in prompts], held_out


def tokenize(
    examples: Sequence[Example], renderer: ChatRenderer, *, max_length: int
) -> tuple[TokenSequences, dict[str, int]]:
    """Render conversations; those longer than `max_length` tokens are counted as filtered.

    Raises:
        DataError: nothing is left.
    """
    rendered = [renderer.render(example.conversation) for example in examples]
    fitting = [item for item in rendered if len(item.ids) <= max_length]
    if not fitting:
        raise DataError(
            f"all {len(examples)} conversations are longer than max_length={max_length} tokens"
        )
    sequences = TokenSequences.from_lists(
        [item.ids for item in fitting], [item.loss_mask for item in fitting]
    )
    filtered = len(rendered) - len(fitting)
    return sequences, {"ok": len(fitting), "failed": 0, "filtered": filtered, "skipped": 0}


def with_quality(conversation: Conversation, quality: int) -> Conversation:
    """The conversation with a quality tag on its last turn only (section 7.2)."""
    *earlier, last = conversation.turns
    return replace(conversation, turns=(*earlier, replace(last, quality=quality)))


def _choose(
    rows: Iterable[Row], source: ConversationSource, *, seed: int
) -> tuple[list[Example], dict[str, int]]:
    count = dict.fromkeys(("ok", "failed", "filtered", "skipped"), 0)
    usable: list[Row] = []
    for row in rows:
        status = str(row["status"])
        if status == "ok" and row.get("split", "sft") != "sft":
            status = "filtered"
        if status == "ok":
            usable.append(row)
        else:
            count[status] += 1
    by_hash = sorted(usable, key=lambda row: _share(str(row["id"]), seed, "cap"))
    kept = {str(row["id"]) for row in by_hash[: source.max_rows]}
    examples: list[Example] = []
    for row in usable:
        identity = str(row["id"])
        whole, part = divmod(source.weight, 1.0)
        copies = int(whole) + (_share(identity, seed, "weight") < part)
        copies = copies if identity in kept else 0
        count["ok" if copies else "skipped"] += 1
        examples += [_example(row, source)] * copies
    return examples, count


def _example(row: Row, source: ConversationSource) -> Example:
    return Example(
        row_id=str(row["id"]),
        prompt_id=str(row.get("prompt_id") or row["id"]),
        language=str(row.get("language", "")),
        category=str(row.get("category", "")),
        conversation=Conversation.from_json(str(row["conversation"])),
        fixed_quality=source.quality,
    )


def _share(identity: str, seed: int, purpose: str) -> float:
    """A number in [0, 1) that depends on nothing but its arguments."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{identity}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def write_sequences(
    parts: Mapping[str, Sequence[Example]],
    renderer: ChatRenderer,
    run_folder: str,
    *,
    max_length: int,
) -> tuple[dict[str, str], dict[str, dict[str, int]], dict[str, int]]:
    """Tokenize named parts into `<run>/work/<name>.npz`; an empty part gets no file.

    Returns: the files, the counts of the step, and the number of sequences, each by name.
    """
    work = Path(run_folder) / "work"
    work.mkdir(parents=True, exist_ok=True)
    files: dict[str, str] = {}
    counts: dict[str, dict[str, int]] = {}
    lengths: dict[str, int] = {}
    for name, examples in parts.items():
        if not examples:
            continue
        sequences, counts[f"tokenize {name}"] = tokenize(examples, renderer, max_length=max_length)
        files[name] = str(work / f"{name}.npz")
        sequences.save(files[name])
        lengths[name] = len(sequences.lengths)
    return files, counts, lengths
