"""What went wrong in a run and was mended: counted, logged, bounded."""

from __future__ import annotations

import logging
from collections import Counter
from textwrap import shorten

from moss import metrics
from moss.config.ppo_faults import PPOFaultsConfig
from moss.errors import ResourceError

_REASON_CHARS = 300
"""Ray's report of a death goes on for a page."""

logger = logging.getLogger(__name__)


class FaultLog:
    """Faults since the job began; each is one warning line and one more in a metric."""

    def __init__(self, config: PPOFaultsConfig) -> None:
        self._config = config
        self._restarts: Counter[str] = Counter()
        self.num_resumes = 0
        self.num_failed_saves = 0

    def restart(self, role: str, rank: int, why: Exception) -> None:
        """An actor is about to be started anew.

        Raises:
            ResourceError: its role has used up its restarts.
        """
        limit = self._config.max_restarts_per_role
        if self._restarts[role] >= limit:
            raise ResourceError(
                f"{role}[{rank}] is lost again after faults.max_restarts_per_role={limit} restarts "
                f"of its role: {why}"
            ) from why
        self._restarts[role] += 1
        logger.warning(
            "%s[%d] is started anew (restart %d of at most %d): %s",
            *(role, rank, self._restarts[role], limit, _one_line(why)),
        )

    def resume(self, why: Exception) -> None:
        """The run is about to go back to its last training state.

        Raises:
            Exception: `why`, once the resumes are used up.
        """
        limit = self._config.max_resumes
        if self.num_resumes >= limit:
            raise why
        self.num_resumes += 1
        logger.warning(
            "all actors are started anew, from the last training state (resume %d of at most %d): "
            "%s",
            *(self.num_resumes, limit, _one_line(why)),
        )

    def failed_save(self, step: int, why: Exception) -> None:
        """A training state could not be written; the run goes on with the one before it."""
        self.num_failed_saves += 1
        logger.warning("the training state of step %d is not saved: %s", step, _one_line(why))

    def metrics(self) -> dict[str, float]:
        """The counts, named."""
        return {
            metrics.FAULT_RESTARTS: float(self._restarts.total()),
            metrics.FAULT_RESUMES: float(self.num_resumes),
            metrics.FAULT_FAILED_SAVES: float(self.num_failed_saves),
        }


def _one_line(why: Exception) -> str:
    return shorten(str(why), _REASON_CHARS, placeholder=" ...")
