"""What an iteration's responses are scored with before its update: all forward passes at once, one
per role, part by part as the responses arrive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from actors.critic import CriticActor
from actors.generation import split_rows
from actors.pending import Pending
from actors.policy import PolicyActor
from actors.reference import ReferenceActor
from actors.reward import RewardActor
from moss.experience import ScoredRollouts
from moss.rewards.base import PromptFacts, Scores, join_scores
from moss.rollouts import Floats, Ints, RolloutBatch, join_rows

if TYPE_CHECKING:
    from actors.ppo_trainer import PPOActors


@dataclass(frozen=True, slots=True)
class _Owed:
    """What the roles owe for some rows of an iteration."""

    rows: Ints
    scores: Pending[Scores]
    references: Pending[Floats]
    logprobs: Pending[Floats]
    values: Pending[Floats] | None


class Scoring:
    """Starts all passes over an iteration's responses and gathers what they compute."""

    def __init__(self, actors: PPOActors, facts: Sequence[PromptFacts]) -> None:
        """Args: `facts`, of the prompt of each row."""
        self._actors, self._facts = actors, facts
        self._owed: list[_Owed] = []
        self.unguarded: list[Pending[object]] = []
        """What policy and critic owe, whom nobody brings back."""

    def begin(self, rows: Ints, rollouts: RolloutBatch) -> None:
        """Start the passes over some rows."""
        actors = self._actors
        of_rewards = split_rows(len(rows), actors.reward.num_ranks)
        of_references = split_rows(len(rows), actors.reference.num_ranks)
        owed = _Owed(
            rows=rows,
            scores=actors.reward.map(
                RewardActor.score,
                [
                    (rollouts.rows(part), [self._facts[row] for row in rows[part]])
                    for part in of_rewards
                ],
            ),
            references=actors.reference.map(
                ReferenceActor.logprobs, [rollouts.rows(part) for part in of_references]
            ),
            logprobs=actors.policy.call(PolicyActor.logprobs, rollouts),
            values=actors.critic.call(CriticActor.values, rollouts) if actors.critic else None,
        )
        self._owed.append(owed)
        self.unguarded += [owed.logprobs, *([owed.values] if owed.values else [])]

    def finish(
        self, rollouts: RolloutBatch, prompts_B: Ints, *, timeout_s: float
    ) -> tuple[ScoredRollouts, Scores]:
        """Wait for all passes.

        Args:
            rollouts: all rows.
            prompts_B: number of each row's prompt.
            timeout_s: of each wait.
        Returns: the rows with what was computed of them, also those whose score failed, and the
            scores with the failures.
        Raises:
            WaitTimeoutError, ActorLostError, MossError: as `Pending.wait` does.
        """
        scores: list[Scores] = []
        references: list[Floats] = []
        for owed in self._owed:
            scores += owed.scores.wait(timeout_s, beside=self.unguarded)
            references += owed.references.wait(timeout_s, beside=self.unguarded)
        of_critic = [owed.values for owed in self._owed if owed.values]
        logprobs = [owed.logprobs.wait(timeout_s, beside=of_critic)[0] for owed in self._owed]
        values = [pending.wait(timeout_s)[0] for pending in of_critic]
        rows_B = np.concatenate([owed.rows for owed in self._owed])
        joined = join_scores(scores, rows_B)
        width = rollouts.tokens_BT.shape[1]
        parts_B = np.empty_like(rows_B)
        for part, owed in enumerate(self._owed):
            parts_B[owed.rows] = part
        scored = ScoredRollouts(
            rollouts=rollouts,
            prompts_B=prompts_B,
            scores_B=joined.scores_B,
            logprobs_BT=join_rows(logprobs, rows_B, width),
            reference_logprobs_BT=join_rows(references, rows_B, width),
            values_BT=join_rows(values, rows_B, width) if values else None,
            parts_B=parts_B,
        )
        return scored, joined
