"""The prompts of PPO: rendered once, drawn in an order that a seed fixes for the whole run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from moss.chat import Conversation
from moss.chat_rendering import ChatRenderer
from moss.errors import DataError
from moss.rewards.base import PromptFacts
from moss.rollouts import Opening, SampleRequest


@dataclass(frozen=True, slots=True)
class PromptSet:
    """Prompts as token ids, each ending where the reply begins.

    Which prompts an iteration takes, and the seeds of its responses, depend on `seed` and the
    iteration alone: a resumed run needs no stored data position.
    """

    ids: tuple[str, ...]
    prompts: tuple[list[int], ...]
    num_filtered: int
    """Prompts left out because they are longer than the limit."""
    seed: int
    columns: tuple[Mapping[str, str | None], ...] = field(default=(), repr=False)
    """What rewards may read of each prompt's row; empty where they read nothing."""
    openings: tuple[Opening, ...] = field(default=(), repr=False)
    """How each prompt's response begins; empty where all are replies alone."""

    def batch(
        self, iteration: int, num_prompts: int, *, responses_per_prompt: int = 1
    ) -> list[SampleRequest]:
        """The requests of one iteration, those of one prompt side by side.

        Each pass over the prompts has its own order.
        """
        size = num_prompts * responses_per_prompt
        positions = range(iteration * size, (iteration + 1) * size)
        rows = [self._prompt_at(position // responses_per_prompt) for position in positions]
        return [
            SampleRequest(
                self.prompts[row],
                self._seed_of(position),
                opening=self.openings[row] if self.openings else None,
            )
            for row, position in zip(rows, positions, strict=True)
        ]

    def facts(
        self, iteration: int, num_prompts: int, *, responses_per_prompt: int = 1
    ) -> list[PromptFacts]:
        """What rewards may know of the prompts behind `batch`'s requests, in their order."""
        size = num_prompts * responses_per_prompt
        rows = [
            self._prompt_at(position // responses_per_prompt)
            for position in range(iteration * size, (iteration + 1) * size)
        ]
        return [
            PromptFacts(self.ids[row], self.columns[row] if self.columns else {}) for row in rows
        ]

    def num_iterations(self, num_prompts: int) -> int:
        """Whole batches of `num_prompts` in one pass over the prompts, at least one."""
        return max(1, len(self.prompts) // num_prompts)

    def _prompt_at(self, position: int) -> int:
        epoch, offset = divmod(position, len(self.prompts))
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.prompts))
        return int(order[offset])

    def _seed_of(self, position: int) -> int:
        digest = hashlib.sha256(f"{self.seed}/{position}".encode()).digest()
        return int.from_bytes(digest[:4], "big")


def render_prompts(
    rows: Sequence[Mapping[str, object]],
    renderer: ChatRenderer,
    *,
    max_tokens: int,
    seed: int,
    columns: Sequence[str] = (),
    with_tools: bool = False,
) -> PromptSet:
    """Render rows with columns `id` and `conversation` (JSON, last reply empty).

    Args:
        columns: further columns, which rewards read.
        with_tools: prompts end where the last turn's thoughts or commands begin, not its reply.
    Raises:
        DataError: no row is left, or a row lacks a column.
    """
    ids: list[str] = []
    prompts: list[list[int]] = []
    read: list[dict[str, str | None]] = []
    openings: list[Opening] = []
    for row in rows:
        conversation = row.get("conversation")
        if not isinstance(conversation, str):
            raise DataError(
                f"prompt row {row.get('id')!r} has no conversation; expected columns id and "
                f"conversation, found {', '.join(sorted(row))}"
            )
        parsed = Conversation.from_json(conversation)
        opening = opening_of(parsed) if with_tools else Opening("moss", frozenset())
        prompt = renderer.prompt_ids(parsed, opening.section)
        if len(prompt) <= max_tokens:
            ids.append(str(row.get("id")))
            prompts.append(prompt)
            read.append({name: _text(row, name) for name in columns})
            openings.append(opening)
    if not prompts:
        raise DataError(
            f"none of {len(rows)} prompts has at most max_prompt_tokens={max_tokens} tokens; "
            "raise rollout.max_prompt_tokens or check the prompt run"
        )
    return PromptSet(
        tuple(ids),
        tuple(prompts),
        len(rows) - len(prompts),
        seed,
        tuple(read),
        tuple(openings) if with_tools else (),
    )


def opening_of(conversation: Conversation) -> Opening:
    """The first section of a turn that the conversation's switches leave to the model."""
    meta = conversation.meta
    if meta.inner_thoughts:
        return Opening("inner_thoughts", meta.tools)
    return Opening("commands" if meta.tools else "moss", meta.tools)


def _text(row: Mapping[str, object], column: str) -> str | None:
    if column not in row:
        raise DataError(
            f"prompt row {row.get('id')!r} has no column {column!r}, which a reward reads (rewards."
            f"columns, reference_column); found {', '.join(sorted(row))}"
        )
    value = row[column]
    return None if value is None else str(value)
