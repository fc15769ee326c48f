"""What a reward is given and what it answers.

A reward scores rows, each a prompt and its response. Per row it answers a number or a
`RewardFailure` with the reason; a failure never becomes a number.

Shapes: `B` rows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np

from moss.chat import HEADERS
from moss.chat_rendering import ChatRenderer
from moss.errors import DataError
from moss.rollouts import Floats, Ints, RolloutBatch

_LARGEST: Final = float(np.finfo(np.float32).max)
_AT_REPLY: Final = re.compile(re.escape(HEADERS["moss"]) + r"(?: <quality: \d+>)?\Z")


@dataclass(frozen=True, slots=True)
class PromptFacts:
    """What a reward may know of a prompt besides its tokens."""

    id: str
    columns: Mapping[str, str | None] = field(default_factory=dict)
    """Values of the configured columns of the prompts' Parquet, as text; None where null."""


@dataclass(frozen=True, slots=True)
class RewardRow:
    """One prompt and response, as rewards other than the preference model see it."""

    id: str
    """The prompt's id and the row's number; no two rows of a batch share it."""
    prompt: str
    """The rendered conversation that the policy went on from, control tokens included."""
    response: str
    """All that follows, as it stands: what the policy wrote and, with tools, what they answered."""
    reply: str
    """The reply alone, markers off; empty where the response ended before it."""
    finished: bool
    """False where the response was cut at its length limit."""
    prompt_ids: list[int]
    response_ids: list[int]
    columns: Mapping[str, str | None] = field(default_factory=dict)
    """See `PromptFacts.columns`."""


@dataclass(frozen=True, slots=True)
class RewardFailure:
    """Why a row has no score."""

    reason: str


Outcome = float | RewardFailure


@dataclass(frozen=True, slots=True)
class RewardBatch:
    """Rows to score, as tokens and, for rewards that read text, as text."""

    rollouts: RolloutBatch
    facts: Sequence[PromptFacts]
    """One per row."""
    renderer: ChatRenderer | None = None
    """What turns tokens into text; None where no reward reads any."""

    def rows(self) -> list[RewardRow]:
        """The rows as text."""
        assert self.renderer is not None, "a reward that reads text is given the renderer"
        return [self._row(row, self.renderer) for row in range(self.rollouts.num_rollouts)]

    def _row(self, row: int, renderer: ChatRenderer) -> RewardRow:
        rollouts, facts = self.rollouts, self.facts[row]
        ids = rollouts.tokens_BT[row, : rollouts.lengths_B[row]].tolist()
        sampled = np.flatnonzero(rollouts.mask_BT[row])
        start = int(sampled[0])
        gaps = np.flatnonzero(np.diff(sampled) > 1)
        last = int(sampled[gaps[-1] + 1]) if len(gaps) else start
        decode = renderer.tokenizer.decode
        is_reply = _AT_REPLY.search(decode(ids[:last])) is not None
        return RewardRow(
            id=f"{facts.id}/{row}",
            prompt=decode(ids[:start]),
            response=decode(ids[start:]),
            reply=renderer.decode_section(ids[last:], "moss") if is_reply else "",
            finished=bool(rollouts.finished_B[row]),
            prompt_ids=ids[:start],
            response_ids=ids[start:],
            columns=facts.columns,
        )


class Reward(Protocol):
    """Scores rows; made by `moss.rewards.combined.build_rewards`."""

    def score(self, batch: RewardBatch) -> list[Outcome]:
        """A finite number or a failure for each row, in order.

        Raises:
            RewardError: no row of any batch can be scored.
        """
        ...

    def close(self) -> None:
        """Free what the reward holds."""
        ...


@dataclass(frozen=True, slots=True)
class Scores:
    """Rewards of a rollout batch. A failed one is a reason, never a number."""

    scores_B: Floats
    """The weighted sum; not a number where a term failed."""
    failures: dict[int, str]
    """Row to why its reward failed."""
    parts: dict[str, Floats] = field(default_factory=dict)
    """Name of each term to its (B,) scores, unweighted; not a number where it failed. Empty for a
    single term."""


def number_or_failure(value: object, source: str) -> Outcome:
    """A finite number as it is, anything else as a failure that names its source."""
    if isinstance(value, int | float | np.floating | np.integer) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        # Scores cross processes in single precision.
        return number if abs(number) <= _LARGEST else RewardFailure(f"{source} gave {number}")
    return RewardFailure(f"{source} gave {value!r:.80}, expected a number")


def join_scores(shards: Sequence[Scores], rows_B: Ints) -> Scores:
    """Scores of parts of a batch as those of the whole.

    Args:
        rows_B: the row of the batch that each score belongs to, one shard after the other.
    """
    order = np.argsort(rows_B)
    failures: dict[int, str] = {}
    start = 0
    for shard in shards:
        failures |= {int(rows_B[start + row]): why for row, why in shard.failures.items()}
        start += len(shard.scores_B)
    return Scores(
        np.concatenate([shard.scores_B for shard in shards])[order],
        failures,
        {
            name: np.concatenate([shard.parts[name] for shard in shards])[order]
            for name in shards[0].parts
        },
    )


def mean_parts(scores: Scores) -> dict[str, float]:
    """Mean of each term over the rows that it scored; a term that scored none is left out."""
    scored = {name: part[np.isfinite(part)] for name, part in scores.parts.items()}
    return {name: float(part.mean()) for name, part in scored.items() if len(part)}


def check_failed_fraction(failures: Mapping[int, str], num_rows: int, *, most: float) -> None:
    """Raise DataError where more than the share `most` of the rows failed, or all of them."""
    if not failures or (len(failures) < num_rows and len(failures) <= most * num_rows):
        return
    reasons = list(failures.values())
    common = max(dict.fromkeys(reasons), key=reasons.count)
    what = (
        f"all {num_rows} rewards of an iteration failed"
        if len(failures) == num_rows
        else f"{len(failures)} of {num_rows} rewards of an iteration failed, more than "
        f"rewards.max_failed_fraction={most:g}"
    )
    raise DataError(
        f"{what}; the most common reason ({reasons.count(common)} rows): {common}. Mend the reward "
        "and run again: the run goes on from its last training state"
    )
