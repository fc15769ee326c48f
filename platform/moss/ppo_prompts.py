"""The prompts of PPO: rendered once, drawn in an order that a seed fixes for the whole run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from moss.chat import Conversation
from moss.chat_rendering import ChatRenderer
from moss.errors import DataError
from moss.rollouts import SampleRequest


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

    def batch(
        self, iteration: int, num_prompts: int, *, responses_per_prompt: int = 1
    ) -> list[SampleRequest]:
        """The requests of one iteration, those of one prompt side by side.

        Each pass over the prompts has its own order.
        """
        size = num_prompts * responses_per_prompt
        return [
            SampleRequest(
                self.prompts[self._prompt_at(position // responses_per_prompt)],
                self._seed_of(position),
            )
            for position in range(iteration * size, (iteration + 1) * size)
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
    rows: Sequence[Mapping[str, object]], renderer: ChatRenderer, *, max_tokens: int, seed: int
) -> PromptSet:
    """Render rows with columns `id` and `conversation` (JSON, last reply empty).

    Raises:
        DataError: no row is left, or a row lacks a column.
    """
    ids: list[str] = []
    prompts: list[list[int]] = []
    for row in rows:
        conversation = row.get("conversation")
        if not isinstance(conversation, str):
            raise DataError(
                f"prompt row {row.get('id')!r} has no conversation; expected columns id and "
                f"conversation, found {', '.join(sorted(row))}"
            )
        prompt = renderer.prompt_ids(Conversation.from_json(conversation), "moss")
        if len(prompt) <= max_tokens:
            ids.append(str(row.get("id")))
            prompts.append(prompt)
    if not prompts:
        raise DataError(
            f"none of {len(rows)} prompts has at most max_prompt_tokens={max_tokens} tokens; "
            "raise rollout.max_prompt_tokens or check the prompt run"
        )
    return PromptSet(tuple(ids), tuple(prompts), len(rows) - len(prompts), seed)
