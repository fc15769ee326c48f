"""A Python function as a reward.

    def score(rows: Sequence[RewardRow]) -> Sequence[float | RewardFailure]: ...

It is called with the rows of one reward actor and answers one number or failure per row, in order.
What it raises fails those rows, with the exception as the reason. It runs in the reward actor and
is bound by `timeouts.score_s` alone.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence

from moss.errors import ConfigError
from moss.rewards.base import Outcome, RewardBatch, RewardFailure, RewardRow, number_or_failure

RewardFunction = Callable[[Sequence[RewardRow]], Sequence[object]]


def load_function(path: str) -> RewardFunction:
    """Import `module:function`.

    Raises:
        ConfigError: it does not import, is absent, or cannot be called with one list of rows.
    """
    module, _, name = path.partition(":")
    try:
        found: object = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:  # a user's module may raise anything
        raise ConfigError(
            f"reward function {path!r} does not import: {type(error).__name__}: {error}; it must "
            "be importable on every node, as the job's own code is (--working-dir, py_modules)"
        ) from error
    if not callable(found) or inspect.iscoroutinefunction(found):
        raise ConfigError(f"{path!r} is {type(found).__name__}, expected a plain function of rows")
    try:
        inspect.signature(found).bind([])
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"reward function {path!r} cannot be called with one argument, the rows: {error}"
        ) from error
    return found


class FunctionScorer:
    """Calls a function for each batch."""

    def __init__(self, path: str) -> None:
        self._path, self._function = path, load_function(path)

    def score(self, batch: RewardBatch) -> list[Outcome]:
        """See `moss.rewards.base.Reward`."""
        return self.score_rows(batch.rows())

    def score_rows(self, rows: Sequence[RewardRow]) -> list[Outcome]:
        """One outcome per row, whatever the function does."""
        try:
            answers = list(self._function(rows))
        except Exception as error:  # a user's function may raise anything
            reason = f"{self._path} raised {type(error).__name__}: {error}"
            return [RewardFailure(reason)] * len(rows)
        if len(answers) != len(rows):
            reason = f"{self._path} gave {len(answers)} scores for {len(rows)} rows"
            return [RewardFailure(reason)] * len(rows)
        return [
            answer if isinstance(answer, RewardFailure) else number_or_failure(answer, self._path)
            for answer in answers
        ]

    def close(self) -> None:
        """Nothing is held."""
